//! Tools that are tasks, as the conformance suite prescribes them. The gateway's own tasks are waits for sessions.

use std::{sync::LazyLock, time::Duration};

use rmcp::{
    ErrorData, RoleServer,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock,
        CreateTaskResult, ElicitRequest, InputRequest, ProtocolVersion,
    },
    service::RequestContext,
    task_manager::{TaskContext, TaskExit, TaskFuture, TaskManager, TaskOptions},
};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Of the process: the server is made anew for each request.
pub static TASKS: LazyLock<TaskManager> = LazyLock::new(TaskManager::new);

/// As `tools/list` shows them.
pub fn tools() -> Vec<Value> {
    let tool = |name: &str, properties: Value| {
        json!({ "name": name, "description": "A fixture of the conformance suite",
            "inputSchema": { "type": "object", "properties": properties } })
    };
    vec![
        tool("greet", json!({ "name": { "type": "string" } })),
        tool("slow_compute", json!({ "seconds": { "type": "number" }, "label": { "type": "string" } })),
        tool("failing_job", json!({})),
        tool("protocol_error_job", json!({})),
        tool("confirm_delete", json!({ "filename": { "type": "string" } })),
        tool("multi_input", json!({})),
        tool("test_tool_with_task", json!({})),
    ]
}

fn text(text: String) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

fn question(message: &str) -> Result<InputRequest, TaskExit> {
    let form = json!({ "mode": "form", "message": message, "requestedSchema": {
        "type": "object", "properties": { "confirm": { "type": "boolean" } } } });
    let form = serde_json::from_value(form)
        .map_err(|error| TaskExit::Error(ErrorData::internal_error(error.to_string(), None)))?;
    Ok(InputRequest::Elicitation(ElicitRequest::new(form)))
}

async fn compute(seconds: f64, label: &str) -> CallToolResult {
    sleep(Duration::from_secs_f64(seconds.clamp(0.0, 120.0))).await;
    text(format!("computed {label}"))
}

/// The work of the task `name`; `None`: no task is called so.
fn work(
    name: &str,
    arguments: &Value,
    who: String,
) -> Option<impl FnOnce(TaskContext) -> TaskFuture + use<>> {
    let known = ["slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input"];
    if !known.contains(&name) && name != "test_tool_with_task" {
        return None;
    }
    let (name, arguments) = (name.to_owned(), arguments.clone());
    Some(move |task: TaskContext| -> TaskFuture {
        Box::pin(async move {
            match name.as_str() {
                "slow_compute" => {
                    let seconds = arguments["seconds"].as_f64().unwrap_or_default();
                    let label = arguments["label"].as_str().unwrap_or_default();
                    tokio::select! {
                        result = compute(seconds, label) => Ok(result),
                        () = task.cancelled() => Err(TaskExit::Cancelled),
                    }
                }
                "failing_job" => Ok(CallToolResult::error(vec![ContentBlock::text("the job failed")])),
                "protocol_error_job" => {
                    Err(TaskExit::Error(ErrorData::internal_error("the protocol failed", None)))
                }
                "confirm_delete" => {
                    task.request_input("confirm", question("Delete it?")?).await?;
                    Ok(text("deleted".to_owned()))
                }
                "multi_input" => {
                    let (one, two) = (question("One?")?, question("Two?")?);
                    tokio::try_join!(task.request_input("one", one), task.request_input("two", two))?;
                    Ok(text("both were answered".to_owned()))
                }
                _ => Ok(text(format!("hello {who}"))),
            }
        })
    })
}

/// What a tool that may be a task gives; `None`: it is none of these, or asks something first.
pub async fn call(
    call: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let arguments = Value::Object(call.arguments.clone().unwrap_or_default());
    if call.name == "greet" {
        let name = arguments["name"].as_str().unwrap_or_default();
        return Some(Ok(text(format!("Hello, {name}!")).into()));
    }
    let answer = call.input_responses.as_ref().and_then(|given| given.get("user_name"));
    if call.name == "test_tool_with_task" && answer.is_none() {
        return None;
    }
    let who = answer.and_then(|answer| answer["content"]["name"].as_str()).unwrap_or_default().to_owned();
    let work = work(&call.name, &arguments, who)?;
    let newer = context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
    let knows_tasks =
        newer && context.client_capabilities().is_some_and(|capabilities| capabilities.supports_tasks());
    if !knows_tasks {
        if call.name == "slow_compute" {
            let seconds = arguments["seconds"].as_f64().unwrap_or_default();
            let label = arguments["label"].as_str().unwrap_or_default();
            return Some(Ok(compute(seconds, label).await.into()));
        }
        let needed = ClientCapabilities::builder().enable_tasks().build();
        return Some(Err(ErrorData::missing_required_client_capability(needed)));
    }
    let options = TaskOptions::new().with_ttl_ms(600_000).with_poll_interval_ms(200);
    Some(Ok(CreateTaskResult::new(TASKS.spawn(options, work)).into()))
}
