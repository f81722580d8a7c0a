//! MCP resources: sessions and what they hold, under addresses a person can point at.
//!
//! Each is read by the tool that shows the same, so that there is one place that cuts, cleans and fences it.

use muster_proto::{
    error::{Error, ErrorCode},
    v1::ListSessionsRequest,
};
use rmcp::{
    ErrorData,
    model::{
        CallToolResponse, CallToolResult, CompletionInfo, ContentBlock, JsonObject, ListResourcesResult,
        ReadResourceResult, Resource, ResourceContents, ResourceTemplate, Tool,
    },
};
use serde_json::{Value, json};

use crate::{
    controller::Controller,
    error,
    render::view::has_ended,
    tools::{self, Call, ToolName},
};

const SESSIONS: &str = "muster://sessions";
const FARM: &str = "muster://farm";
/// Sessions in the list of resources, by page.
const PAGE: u32 = 100;
/// Sessions a completion looks through: as many as the controller lists at once.
const COMPLETED: u32 = 500;

/// What an address means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    Sessions,
    Farm,
    /// The name of a session as it was given.
    Session(String, Part),
}

/// What of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Output,
    Result,
    Changes,
    Attention,
}

impl Part {
    const ALL: [Self; 4] = [Self::Output, Self::Result, Self::Changes, Self::Attention];

    const fn name(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Result => "result",
            Self::Changes => "changes",
            Self::Attention => "attention",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Output => "What a session said and did",
            Self::Result => "The answer of a session",
            Self::Changes => "What a session changed",
            Self::Attention => "What a session asks",
        }
    }

    const fn mime_type(self) -> &'static str {
        match self {
            Self::Output | Self::Result => "text/plain",
            Self::Changes => "text/x-diff",
            Self::Attention => "application/json",
        }
    }
}

impl Subject {
    pub(crate) fn parse(uri: &str) -> Option<Self> {
        match uri {
            SESSIONS => return Some(Self::Sessions),
            FARM => return Some(Self::Farm),
            _ => {}
        }
        let (session, part) = uri.strip_prefix(SESSIONS)?.strip_prefix('/')?.split_once('/')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if session.is_empty() || session.len() > 128 || !session.chars().all(plain) {
            return None;
        }
        let part = Part::ALL.into_iter().find(|known| known.name() == part)?;
        Some(Self::Session(session.to_owned(), part))
    }

    /// The tool that shows it, and how to call it.
    fn tool(&self) -> (ToolName, Value) {
        match self {
            Self::Sessions => (ToolName::ListSessions, json!({ "limit": 50 })),
            Self::Farm => (ToolName::GetFarmStatus, json!({})),
            Self::Session(session, Part::Output) => {
                (ToolName::GetSessionOutput, json!({ "sessionId": session }))
            }
            Self::Session(session, Part::Result) => {
                (ToolName::GetSessionOutput, json!({ "sessionId": session, "format": "result" }))
            }
            Self::Session(session, Part::Changes) => {
                (ToolName::GetSessionChanges, json!({ "sessionId": session, "format": "patch" }))
            }
            Self::Session(session, Part::Attention) => {
                (ToolName::GetSessionStatus, json!({ "sessionId": session }))
            }
        }
    }

    const fn mime_type(&self) -> &'static str {
        match self {
            Self::Sessions | Self::Farm => "application/json",
            Self::Session(_, part) => part.mime_type(),
        }
    }
}

/// A link to what of `session` is worth reading next.
pub(crate) fn link(session: &muster_proto::v1::Session) -> ContentBlock {
    let part = if has_ended(session) { Part::Result } else { Part::Output };
    ContentBlock::resource_link(resource(&session.handle, part))
}

fn resource(handle: &str, part: Part) -> Resource {
    Resource::new(format!("{SESSIONS}/{handle}/{}", part.name()), format!("{handle} {}", part.name()))
        .with_title(part.title())
        .with_mime_type(part.mime_type())
}

/// A page of what there is: the farm first, then its sessions, those that need attention before others.
pub(crate) async fn list(
    controller: &Controller,
    cursor: Option<String>,
) -> Result<ListResourcesResult, ErrorData> {
    let first = cursor.is_none();
    let request =
        ListSessionsRequest { limit: PAGE, cursor: cursor.unwrap_or_default(), ..Default::default() };
    let listed = controller.list(request).await.map_err(|error| failed(&error))?;
    let mut resources = Vec::new();
    if first {
        let known = [(SESSIONS, "sessions", "The sessions"), (FARM, "farm", "Workers, slots and queue")];
        resources.extend(known.map(|(uri, name, title)| {
            Resource::new(uri, name).with_title(title).with_mime_type("application/json")
        }));
    }
    resources.extend(listed.sessions.iter().map(|session| {
        let part = if has_ended(session) { Part::Result } else { Part::Output };
        resource(&session.handle, part)
    }));
    let mut result = ListResourcesResult::with_all_items(resources);
    result.next_cursor = Some(listed.next_cursor).filter(|cursor| !cursor.is_empty());
    Ok(result)
}

pub(crate) fn templates() -> Vec<ResourceTemplate> {
    Part::ALL
        .into_iter()
        .map(|part| {
            ResourceTemplate::new(format!("{SESSIONS}/{{sessionId}}/{}", part.name()), part.name())
                .with_title(part.title())
                .with_mime_type(part.mime_type())
        })
        .collect()
}

pub(crate) async fn read(call: &Call, tools: &[Tool], uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let unknown = || ErrorData::resource_not_found("there is no such resource", Some(json!({ "uri": uri })));
    let subject = Subject::parse(uri).ok_or_else(unknown)?;
    let (name, arguments) = subject.tool();
    let tool = tools.iter().find(|tool| tool.name == name.as_str()).ok_or_else(unknown)?;
    let arguments: JsonObject = arguments.as_object().cloned().unwrap_or_default();
    let reply = Box::pin(tools::call(call, name, &tool.input_schema, arguments)).await;
    let CallToolResponse::Complete(result) = reply.map_err(|error| failed(&error))? else {
        return Err(unknown());
    };
    let contents = ResourceContents::text(text(&subject, result), uri).with_mime_type(subject.mime_type());
    Ok(ReadResourceResult::new(vec![contents]))
}

fn text(subject: &Subject, result: CallToolResult) -> String {
    let structured = result.structured_content.unwrap_or_default();
    match subject {
        Subject::Sessions | Subject::Farm => structured.to_string(),
        Subject::Session(_, Part::Attention) => {
            structured.get("attention").cloned().unwrap_or_else(|| json!({})).to_string()
        }
        Subject::Session(..) => result
            .content
            .iter()
            .find_map(ContentBlock::as_text)
            .map(|block| block.text.clone())
            .unwrap_or_default(),
    }
}

/// Sessions whose names begin with `begun`, for people who type one.
pub(crate) async fn complete(controller: &Controller, begun: &str) -> Result<CompletionInfo, ErrorData> {
    let request =
        ListSessionsRequest { limit: COMPLETED, include_archived: true, ..ListSessionsRequest::default() };
    let listed = controller.list(request).await.map_err(|error| failed(&error))?;
    let begun = begun.to_lowercase();
    let mut names: Vec<String> = listed.sessions.into_iter().map(|session| session.handle).collect();
    names.retain(|name| name.starts_with(&begun));
    let total = names.len();
    names.truncate(CompletionInfo::MAX_VALUES);
    let more = total > names.len() || !listed.next_cursor.is_empty();
    CompletionInfo::with_pagination(names, u32::try_from(total).ok(), more)
        .map_err(|error| ErrorData::internal_error(error, None))
}

fn failed(error: &Error) -> ErrorData {
    let text = error::to_text(error);
    match error.code {
        ErrorCode::SessionNotFound | ErrorCode::AmbiguousSession | ErrorCode::NoChangesKept => {
            ErrorData::resource_not_found(text, None)
        }
        ErrorCode::InvalidCursor | ErrorCode::InvalidArgument => ErrorData::invalid_params(text, None),
        _ => ErrorData::internal_error(text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_mean_what_their_templates_say_and_nothing_else() {
        assert_eq!(Subject::parse("muster://sessions"), Some(Subject::Sessions));
        assert_eq!(Subject::parse("muster://farm"), Some(Subject::Farm));
        for (part, template) in Part::ALL.into_iter().zip(templates()) {
            let uri = template.uri_template.replace("{sessionId}", "fix-login-7k2p9x");
            assert_eq!(Subject::parse(&uri), Some(Subject::Session("fix-login-7k2p9x".into(), part)));
        }
        for uri in [
            "",
            "muster://",
            "muster://sessions/",
            "muster://sessions/x",
            "muster://sessions//output",
            "muster://sessions/x/secrets",
            "muster://sessions/../output",
            "muster://sessions/a b/output",
            "muster://sessions/x/output?y",
            "file:///etc/passwd",
        ] {
            assert_eq!(Subject::parse(uri), None, "{uri}");
        }
    }
}
