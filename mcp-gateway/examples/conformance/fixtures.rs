//! What the conformance suite prescribes of the server under test, in its words; everything else is the
//! gateway's.

#![expect(deprecated, reason = "the suite asks for log messages and sampling too")]

use std::{sync::LazyLock, time::Duration};

use muster_mcp_gateway::Server;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CancelTaskParams, ClientCapabilities, ClientResult,
        CompleteRequestParams, CompleteResult, GetPromptRequestParams, GetPromptResponse, GetTaskParams,
        GetTaskResult, InitializeRequestParams, InitializeResult, InputRequiredResult, InputResponses,
        ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, LoggingLevel,
        LoggingMessageNotificationParam, PaginatedRequestParams, ProgressNotificationParam, Prompt,
        ReadResourceRequestParams, ReadResourceResponse, Resource, ResourceTemplate, ServerConfig,
        ServerRequest, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, Tool,
        UnsubscribeRequestParams, UpdateTaskParams,
    },
    service::{RequestContext, SubscriptionContext},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::task_fixtures;

/// One red pixel.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/// No samples.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=";
const PAUSE: Duration = Duration::from_millis(50);
/// Makes the states of this process unlike any other's.
static SECRET: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().simple().to_string());

#[derive(Clone)]
pub struct Fixtures {
    gateway: Server,
}

impl Fixtures {
    pub fn new(gateway: Server) -> Self {
        Self { gateway }
    }
}

type Reply = Result<Value, ErrorData>;

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// A result as the newer era has it; rmcp takes the mark off for the older one.
fn complete<T: DeserializeOwned>(mut result: Value) -> Result<T, ErrorData> {
    result["resultType"] = "complete".into();
    typed(result)
}

fn text(text: impl Into<String>) -> Value {
    json!({ "content": [{ "type": "text", "text": text.into() }] })
}

fn tools() -> Vec<Value> {
    let plain = [
        "test_simple_text",
        "test_image_content",
        "test_audio_content",
        "test_embedded_resource",
        "test_multiple_content_types",
        "test_tool_with_logging",
        "test_logging_tool",
        "test_error_handling",
        "test_tool_with_progress",
        "test_elicitation_sep1034_defaults",
        "test_elicitation_sep1330_enums",
        "test_missing_capability",
        "test_streaming_elicitation",
        "test_input_required_result_elicitation",
        "test_input_required_result_sampling",
        "test_input_required_result_list_roots",
        "test_input_required_result_request_state",
        "test_input_required_result_multiple_inputs",
        "test_input_required_result_multi_round",
        "test_input_required_result_tampered_state",
        "test_input_required_result_capabilities",
    ];
    let tool = |name: &str, properties: Value| {
        json!({ "name": name, "description": "As the suite prescribes it",
            "inputSchema": { "type": "object", "properties": properties } })
    };
    let mut tools: Vec<Value> = plain.iter().map(|name| tool(name, json!({}))).collect();
    tools.push(tool("test_sampling", json!({ "prompt": { "type": "string" } })));
    tools.push(tool("test_elicitation", json!({ "message": { "type": "string" } })));
    tools
}

/// The answer of a tool that says the same to everybody.
fn constant(name: &str) -> Option<Value> {
    let resource = |uri: &str, mime: &str, text: &str| json!({ "type": "resource", "resource": { "uri": uri, "mimeType": mime, "text": text } });
    let image = json!({ "type": "image", "data": PNG, "mimeType": "image/png" });
    Some(match name {
        "test_simple_text" => text("This is a simple text response for testing."),
        "test_image_content" => json!({ "content": [image] }),
        "test_audio_content" => {
            json!({ "content": [{ "type": "audio", "data": WAV, "mimeType": "audio/wav" }] })
        }
        "test_embedded_resource" => json!({ "content": [resource(
            "test://embedded-resource", "text/plain", "This is an embedded resource content.")] }),
        "test_multiple_content_types" => json!({ "content": [
            { "type": "text", "text": "Multiple content types test:" },
            image,
            resource("test://mixed-content-resource", "application/json", r#"{"test":"data","value":123}"#),
        ] }),
        "test_logging_tool" => text("Nothing was logged"),
        "test_error_handling" => {
            let mut error = text("This tool intentionally returns an error for testing");
            error["isError"] = true.into();
            error
        }
        _ => return None,
    })
}

fn form(message: &str, properties: &Value, required: &[&str]) -> Value {
    json!({ "method": "elicitation/create", "params": { "mode": "form", "message": message,
        "requestedSchema": { "type": "object", "properties": properties, "required": required } } })
}

fn sampling(prompt: &str, tokens: u32) -> Value {
    json!({ "method": "sampling/createMessage", "params": { "maxTokens": tokens,
        "messages": [{ "role": "user", "content": { "type": "text", "text": prompt } }] } })
}

fn roots() -> Value {
    json!({ "method": "roots/list", "params": {} })
}

fn ask_name() -> Value {
    form("What is your name?", &json!({ "name": { "type": "string" } }), &["name"])
}

fn asked(requests: &Value, state: Option<String>) -> Reply {
    let mut result = json!({ "resultType": "input_required", "inputRequests": requests });
    if let Some(state) = state {
        result["requestState"] = state.into();
    }
    Ok(result)
}

fn state(round: &str) -> String {
    format!("{round}-{}", *SECRET)
}

/// Tools that ask the client for something before they answer, in the newer era.
fn input_required(
    name: &str,
    given: &InputResponses,
    echoed: Option<&str>,
    capabilities: &ClientCapabilities,
) -> Option<Reply> {
    let has = |key: &str| given.get(key).is_some_and(Value::is_object);
    let proper = |round: &str| echoed == Some(state(round).as_str());
    let accepted = |key: &str, field: &str| {
        given.get(key).and_then(|answer| answer["content"][field].as_str()).map(ToOwned::to_owned)
    };
    Some(match name {
        "test_input_required_result_elicitation" | "test_streaming_elicitation" | "test_tool_with_task" => {
            match accepted("user_name", "name") {
                Some(name) => Ok(text(format!("Hello, {name}!"))),
                None => asked(&json!({ "user_name": ask_name() }), None),
            }
        }
        "test_input_required_result_sampling" if has("capital_question") => {
            Ok(text(format!("It said {}", given["capital_question"]["content"])))
        }
        "test_input_required_result_sampling" => {
            asked(&json!({ "capital_question": sampling("What is the capital of France?", 100) }), None)
        }
        "test_input_required_result_list_roots" if has("client_roots") => {
            Ok(text(format!("The roots are {}", given["client_roots"]["roots"])))
        }
        "test_input_required_result_list_roots" => asked(&json!({ "client_roots": roots() }), None),
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            match echoed {
                Some(_) if !proper("one") => {
                    Err(ErrorData::invalid_params("the requestState is not ours", None))
                }
                Some(_) if has("confirm") => Ok(text("state-ok")),
                _ => {
                    let ok = json!({ "ok": { "type": "boolean" } });
                    asked(&json!({ "confirm": form("Please confirm", &ok, &["ok"]) }), Some(state("one")))
                }
            }
        }
        "test_input_required_result_multiple_inputs" => {
            let all = ["user_name", "greeting", "client_roots"].iter().all(|key| has(key));
            if all && proper("one") {
                Ok(text("All three were given"))
            } else {
                let greeting = sampling("Generate a greeting", 50);
                let requests =
                    json!({ "user_name": ask_name(), "greeting": greeting, "client_roots": roots() });
                asked(&requests, Some(state("one")))
            }
        }
        "test_input_required_result_multi_round" => {
            if has("step2") && proper("two") {
                Ok(text("Both steps were taken"))
            } else if has("step1") && proper("one") {
                let colour = json!({ "color": { "type": "string" } });
                let step = form("Step 2: What is your favorite color?", &colour, &["color"]);
                asked(&json!({ "step2": step }), Some(state("two")))
            } else {
                let name = json!({ "name": { "type": "string" } });
                let step = form("Step 1: What is your name?", &name, &["name"]);
                asked(&json!({ "step1": step }), Some(state("one")))
            }
        }
        "test_input_required_result_capabilities" => {
            let mut requests = Map::new();
            if capabilities.elicitation.is_some() {
                requests.insert("user_name".to_owned(), ask_name());
            }
            if capabilities.sampling.is_some() {
                requests.insert("greeting".to_owned(), sampling("Generate a greeting", 50));
            }
            if requests.is_empty() || !given.is_empty() {
                Ok(text("There is nothing to ask for"))
            } else {
                asked(&Value::Object(requests), None)
            }
        }
        _ => return None,
    })
}

/// Asks the client in the middle of a call, as the older era does.
async fn request(context: &RequestContext<RoleServer>, request: Value) -> Result<Value, ErrorData> {
    let request: ServerRequest = typed(request)?;
    let failed = |error: rmcp::ServiceError| ErrorData::internal_error(error.to_string(), None);
    let result: ClientResult = context.peer.send_request(request).await.map_err(failed)?;
    serde_json::to_value(result).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

async fn talking(name: &str, arguments: &Value, context: &RequestContext<RoleServer>) -> Option<Reply> {
    let schema = match name {
        "test_tool_with_logging" => {
            for line in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
                let message = LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(line));
                let _ = context.peer.notify_logging_message(message).await;
                tokio::time::sleep(PAUSE).await;
            }
            return Some(Ok(text("It logged three lines")));
        }
        "test_tool_with_progress" => {
            for progress in [0.0, 50.0, 100.0] {
                if let Some(token) = context.meta.get_progress_token() {
                    let progress = ProgressNotificationParam::new(token, progress).with_total(100.0);
                    let _ = context.peer.notify_progress(progress).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
            return Some(Ok(text("It went from 0 to 100")));
        }
        "test_missing_capability" => {
            let declared = context.client_capabilities().is_some_and(|client| client.sampling.is_some());
            let needed = ClientCapabilities::builder().enable_sampling().build();
            let missing = || Err(ErrorData::missing_required_client_capability(needed));
            return Some(if declared { Ok(text("It was declared")) } else { missing() });
        }
        "test_sampling" => {
            let prompt = arguments["prompt"].as_str().unwrap_or_default();
            let answer = request(context, sampling(prompt, 100)).await;
            return Some(answer.map(|answer| text(format!("LLM response: {}", answer["content"]["text"]))));
        }
        "test_elicitation" => json!({
            "username": { "type": "string", "description": "User's response" },
            "email": { "type": "string", "description": "User's email address" }
        }),
        "test_elicitation_sep1034_defaults" => json!({
            "name": { "type": "string", "default": "John Doe" },
            "age": { "type": "integer", "default": 30 },
            "score": { "type": "number", "default": 95.5 },
            "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
            "verified": { "type": "boolean", "default": true }
        }),
        "test_elicitation_sep1330_enums" => enums(),
        _ => return None,
    };
    let required: &[&str] = if name == "test_elicitation" { &["username", "email"] } else { &[] };
    let message = arguments["message"].as_str().unwrap_or("Please fill in the form");
    let answer = request(context, form(message, &schema, required)).await;
    Some(answer.map(|answer| {
        text(format!("Elicitation completed: action={}, content={}", answer["action"], answer["content"]))
    }))
}

fn enums() -> Value {
    let titled = |word: &str| {
        let titles = ["First", "Second", "Third"].iter().enumerate();
        titles
            .map(|(index, title)| {
                json!({ "const": format!("value{}", index + 1), "title": format!("{title} {word}") })
            })
            .collect::<Vec<_>>()
    };
    json!({
        "untitledSingle": { "type": "string", "enum": ["option1", "option2", "option3"] },
        "titledSingle": { "type": "string", "oneOf": titled("Option") },
        "legacyEnum": { "type": "string", "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"] },
        "untitledMulti": { "type": "array",
            "items": { "type": "string", "enum": ["option1", "option2", "option3"] } },
        "titledMulti": { "type": "array", "items": { "anyOf": titled("Choice") } }
    })
}

fn read(uri: &str) -> Option<Value> {
    let contents = match uri {
        "test://static-text" => json!({ "uri": uri, "mimeType": "text/plain",
            "text": "This is the content of the static text resource." }),
        "test://static-binary" => json!({ "uri": uri, "mimeType": "image/png", "blob": PNG }),
        "test://watched-resource" => json!({ "uri": uri, "mimeType": "text/plain", "text": "watched" }),
        _ => {
            let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
            let data = format!("Data for ID: {id}");
            let text = json!({ "id": id, "templateTest": true, "data": data }).to_string();
            json!({ "uri": uri, "mimeType": "application/json", "text": text })
        }
    };
    Some(json!({ "contents": [contents] }))
}

fn prompts() -> Value {
    let prompt = |name: &str, arguments: &[&str]| {
        let arguments: Vec<Value> =
            arguments.iter().map(|name| json!({ "name": name, "required": true })).collect();
        json!({ "name": name, "description": "As the suite prescribes it", "arguments": arguments })
    };
    json!([
        prompt("test_simple_prompt", &[]),
        prompt("test_prompt_with_arguments", &["arg1", "arg2"]),
        prompt("test_prompt_with_embedded_resource", &["resourceUri"]),
        prompt("test_prompt_with_image", &[]),
        prompt("test_input_required_result_prompt", &[])
    ])
}

fn prompt(name: &str, arguments: &Value, given: &InputResponses) -> Option<Value> {
    let said = |content: Value| json!({ "role": "user", "content": content });
    let text = |text: &str| said(json!({ "type": "text", "text": text }));
    let argument = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
    let messages = match name {
        "test_simple_prompt" => json!([text("This is a simple prompt for testing.")]),
        "test_prompt_with_arguments" => json!([text(&format!(
            "Prompt with arguments: arg1='{}', arg2='{}'",
            argument("arg1"),
            argument("arg2")
        ))]),
        "test_prompt_with_embedded_resource" => json!([
            said(json!({ "type": "resource", "resource": { "uri": argument("resourceUri"),
                "mimeType": "text/plain", "text": "Embedded resource content for testing." } })),
            text("Please process the embedded resource above.")
        ]),
        "test_prompt_with_image" => json!([
            said(json!({ "type": "image", "data": PNG, "mimeType": "image/png" })),
            text("Please analyze the image above.")
        ]),
        "test_input_required_result_prompt" => {
            match given.get("user_context").and_then(|answer| answer["content"]["context"].as_str()) {
                Some(context) => json!([text(&format!("The context is {context}"))]),
                None => {
                    let context = json!({ "context": { "type": "string" } });
                    let ask = form("What context should the prompt use?", &context, &["context"]);
                    return Some(json!({ "resultType": "input_required",
                        "inputRequests": { "user_context": ask } }));
                }
            }
        }
        _ => return None,
    };
    Some(json!({ "messages": messages }))
}

fn is_question(reply: &Value) -> bool {
    reply["resultType"] == "input_required"
}

impl ServerHandler for Fixtures {
    fn get_info(&self) -> ServerConfig {
        self.gateway.get_info()
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        self.gateway.initialize(request, context).await
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.gateway.set_level(request, context).await
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut list = self.gateway.list_tools(request, context).await?;
        list.tools.extend(typed::<Vec<Tool>>(json!(tools()))?);
        list.tools.extend(typed::<Vec<Tool>>(json!(task_fixtures::tools()))?);
        Ok(list)
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if let Some(reply) = task_fixtures::call(&call, &context).await {
            return reply;
        }
        let arguments = Value::Object(call.arguments.clone().unwrap_or_default());
        let given = call.input_responses.clone().unwrap_or_default();
        let capabilities = context.client_capabilities().unwrap_or_default();
        let reply = match constant(&call.name) {
            Some(reply) => Some(Ok(reply)),
            None => match input_required(&call.name, &given, call.request_state.as_deref(), &capabilities) {
                Some(reply) => Some(reply),
                None => talking(&call.name, &arguments, &context).await,
            },
        };
        match reply {
            Some(reply) => match reply? {
                question if is_question(&question) => {
                    Ok(CallToolResponse::InputRequired(typed::<InputRequiredResult>(question)?))
                }
                result => Ok(CallToolResponse::Complete(complete(result)?)),
            },
            None => self.gateway.call_tool(call, context).await,
        }
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        match task_fixtures::TASKS.get_task(&request.task_id) {
            Ok(task) => Ok(GetTaskResult::new(task)),
            Err(_) => self.gateway.get_task(request, context).await,
        }
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if task_fixtures::TASKS.get_task(&request.task_id).is_err() {
            return self.gateway.update_task(request, context).await;
        }
        task_fixtures::TASKS.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if task_fixtures::TASKS.get_task(&request.task_id).is_err() {
            return self.gateway.cancel_task(request, context).await;
        }
        task_fixtures::TASKS.cancel_task(&request.task_id)
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let mut list = self.gateway.list_resources(request, context).await?;
        let fixtures = json!([
            { "uri": "test://static-text", "name": "Static text", "mimeType": "text/plain" },
            { "uri": "test://static-binary", "name": "Static binary", "mimeType": "image/png" }
        ]);
        list.resources.extend(typed::<Vec<Resource>>(fixtures)?);
        Ok(list)
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let mut list = self.gateway.list_resource_templates(request, context).await?;
        let fixture = json!({ "uriTemplate": "test://template/{id}/data", "name": "Template" });
        list.resource_templates.push(typed::<ResourceTemplate>(fixture)?);
        Ok(list)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        match read(&request.uri) {
            Some(result) => Ok(ReadResourceResponse::Complete(complete(result)?)),
            None => self.gateway.read_resource(request, context).await,
        }
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if read(&request.uri).is_some() { Ok(()) } else { self.gateway.subscribe(request, context).await }
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.gateway.unsubscribe(request, context).await
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        self.gateway.accepted_subscription_filter(requested)
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        self.gateway.listen(context).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        self.gateway.complete(request, context).await
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let mut list = self.gateway.list_prompts(request, context).await?;
        list.prompts.extend(typed::<Vec<Prompt>>(prompts())?);
        Ok(list)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.clone().unwrap_or_default());
        let given = request.input_responses.clone().unwrap_or_default();
        match prompt(&request.name, &arguments, &given) {
            Some(question) if is_question(&question) => {
                Ok(GetPromptResponse::InputRequired(typed::<InputRequiredResult>(question)?))
            }
            Some(result) => Ok(GetPromptResponse::Complete(complete(result)?)),
            None => self.gateway.get_prompt(request, context).await,
        }
    }
}
