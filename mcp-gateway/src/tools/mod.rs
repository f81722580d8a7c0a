//! The eleven tools: their names, their definitions, and the way from a name to its code.
//!
//! One file a tool: what it takes, what it says, what it does. Invariant: a call that fails in its arguments
//! has asked the controller nothing.

mod archive_session;
mod ask_user;
mod get_farm_status;
mod get_session_changes;
mod get_session_output;
mod get_session_status;
mod integrate_session;
mod list_sessions;
mod output_page;
mod progress;
mod reported;
mod send_input;
mod spawn_session;
mod stop_session;
mod wait_for_completion;
mod waited;
mod waiting;

use std::{borrow::Cow, sync::Arc};

use muster_proto::error::{Error, ErrorCode};
use muster_runtime::shutdown::Shutdown;
use rmcp::{
    RoleServer,
    model::{
        CallToolResponse, CallToolResult, ContentBlock, InputResponses, JsonObject, MetaObject, Tool,
        ToolAnnotations,
    },
    service::Peer,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub(crate) use self::ask_user::give as give_answer;
pub(crate) use self::{
    progress::Progress,
    wait_for_completion::{Args as WaitArgs, plan as plan_wait},
    waiting::{Asker, Plan, Questions, progress as wait_progress, wait},
};
use crate::{
    Config, args, caller::Caller, controller::Controller, limits::WaitLimits, schema, watches::Watches,
};

/// Shortest tool use id that is taken for unique. Claude's have 30 characters, most of them random; proxies
/// that imitate it count ("call_1"), and a counter would make another call look like a repetition of this
/// one.
const TOOL_USE_ID_CHARS: usize = 20;

/// What a call comes with besides its arguments.
#[derive(Debug)]
pub(crate) struct Call {
    /// Who makes it.
    pub(crate) caller: Caller,
    pub(crate) config: Arc<Config>,
    /// The caller's, and with them the controller as the caller sees it.
    pub(crate) watches: Watches,
    /// How long a wait of this caller may be.
    pub(crate) waits: WaitLimits,
    pub(crate) tool_use_id: Option<String>,
    pub(crate) progress: Option<Progress>,
    /// How to put a question before the person at the client; `None`: it cannot show any.
    pub(crate) asking: Option<Asking>,
    /// What that person answered, when this call is one made again with answers.
    pub(crate) answers: InputResponses,
    /// The client knows links to resources.
    pub(crate) links: bool,
    /// The caller withdrew this call.
    pub(crate) cancelled: CancellationToken,
    /// The caller is gone.
    pub(crate) hung_up: CancellationToken,
    /// This gateway leaves; another may take its place.
    pub(crate) leaving: Shutdown,
}

/// How a question reaches the person at the client.
#[derive(Debug, Clone)]
pub(crate) enum Asking {
    /// In the middle of a call.
    Request(Peer<RoleServer>),
    /// The call ends with the question and is made again with the answer.
    Return,
}

/// Names a request, so that the controller does it once however often it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId {
    pub(crate) id: String,
    /// Ours, not the caller's: a conflict then is no fault of the caller.
    pub(crate) derived: bool,
}

impl RequestId {
    /// One that was never used.
    pub(crate) fn fresh() -> Self {
        Self { id: format!("gw-{}", uuid::Uuid::new_v4().simple()), derived: false }
    }
}

impl Call {
    /// The controller, for this caller.
    pub(crate) fn controller(&self) -> &Controller {
        self.watches.controller()
    }

    /// The caller's id; else the id of the tool use, which a client that lost our answer repeats; else a new
    /// one, which covers our own retries.
    pub(crate) fn request_id(&self, given: Option<String>) -> RequestId {
        if let Some(id) = given {
            return RequestId { id, derived: false };
        }
        match self.tool_use_id.as_ref().filter(|id| id.len() >= TOOL_USE_ID_CHARS) {
            Some(id) => {
                let id = id.chars().filter(char::is_ascii_graphic).take(100).collect::<String>();
                RequestId { id: format!("use-{id}"), derived: true }
            }
            None => RequestId::fresh(),
        }
    }
}

macro_rules! tools {
    ($($variant:ident = $module:ident),+ $(,)?) => {
        /// A tool there is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum ToolName {
            $(#[doc = stringify!($module)] $variant),+
        }

        impl ToolName {
            pub(crate) fn parse(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($module) => Some(Self::$variant),)+
                    _ => None,
                }
            }

            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($module)),+
                }
            }

            pub(crate) fn all() -> Vec<&'static str> {
                vec![$(stringify!($module)),+]
            }
        }

        /// Every tool as `tools/list` shows it, always in the same order.
        pub(crate) fn definitions() -> Vec<Tool> {
            vec![$($module::definition()),+]
        }

        /// Runs a tool.
        pub(crate) async fn call(
            call: &Call,
            name: ToolName,
            schema: &JsonObject,
            arguments: JsonObject,
        ) -> Result<CallToolResponse, Error> {
            match name {
                $(ToolName::$variant => {
                    let arguments = $module::accept(arguments);
                    let arguments = args::parse::<$module::Args>(schema, arguments)?;
                    // Each in a box of its own: a wait, of which there are many, holds no room for the largest.
                    Ok(CallToolResponse::from(Box::pin($module::call(call, arguments)).await?))
                })+
            }
        }
    };
}

tools! {
    SpawnSession = spawn_session,
    ListSessions = list_sessions,
    GetSessionStatus = get_session_status,
    GetSessionOutput = get_session_output,
    GetSessionChanges = get_session_changes,
    SendInput = send_input,
    WaitForCompletion = wait_for_completion,
    StopSession = stop_session,
    IntegrateSession = integrate_session,
    ArchiveSession = archive_session,
    GetFarmStatus = get_farm_status,
}

/// How a tool behaves, for clients that ask people by it.
#[derive(Debug, Clone, Copy)]
struct Hints {
    read_only: bool,
    destructive: bool,
    idempotent: bool,
    /// Its text comes from outside: from the model, the repository, the web.
    open_world: bool,
}

/// A definition with schemas every client takes.
fn define<Args: JsonSchema, Output: JsonSchema>(
    name: ToolName,
    title: &'static str,
    description: &'static str,
    hints: Hints,
    meta: &[(&str, Value)],
) -> Tool {
    let annotations = ToolAnnotations::with_title(title)
        .read_only(hints.read_only)
        .destructive(hints.destructive)
        .idempotent(hints.idempotent)
        .open_world(hints.open_world);
    let meta: JsonObject = meta.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let tool = Tool::new(Cow::Borrowed(name.as_str()), description, schema::input::<Args>())
        .with_title(title)
        .with_raw_output_schema(schema::output::<Output>())
        .with_annotations(annotations);
    if meta.is_empty() { tool } else { tool.with_meta(MetaObject(meta)) }
}

/// A successful result: everything as JSON, and the same JSON as text for clients that know no structured
/// content.
fn structured<T: Serialize>(output: &T) -> Result<CallToolResult, Error> {
    let value = to_value(output)?;
    let text = value.to_string();
    Ok(with_text(value, text))
}

/// A successful result whose text reads better than its JSON.
fn with_text(value: Value, text: String) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(value);
    result
}

fn to_value<T: Serialize>(output: &T) -> Result<Value, Error> {
    serde_json::to_value(output).map_err(|error| {
        Error::new(ErrorCode::Internal, format!("the result cannot be written as JSON: {error}"))
    })
}

/// `sessionId` as the caller gave it; the controller knows what it may be.
fn session_given(session: &str) -> Result<&str, Error> {
    let session = session.trim();
    if session.is_empty() {
        return Err(Error::invalid("sessionId", "`sessionId` is empty")
            .hint("give the sessionId that spawn_session or list_sessions returned"));
    }
    Ok(session)
}

#[cfg(test)]
mod tests;
