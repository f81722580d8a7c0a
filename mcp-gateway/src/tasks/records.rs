//! Tasks as the controller keeps them: what was asked, and what came of it.
//!
//! The bytes are formats of their own (version 1 in both) that an older gateway must not misread and a newer one must
//! go on reading. Invariant: a task is the caller's it was made for; the controller shows it to nobody else.

use std::{collections::BTreeSet, time::Duration};

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        CreateTaskRequest, GetTaskRequest, Task, TaskState, UpdateTaskRequest,
        task_service_client::TaskServiceClient,
    },
};
use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::controller::Controller;

/// How long a task stays after its last change beyond what the wait may last.
const STAYS: Duration = Duration::from_secs(3600);
/// The controller's bound.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// Largest outcome, as the controller bounds it.
const OUTCOME_BYTES: usize = 256 << 10;

/// What came of a task so far. Version 1.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    version: u32,
    /// Questions the person at the client will not answer.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) declined: BTreeSet<String>,
    /// The result, as the call would have given it. A text that is the structured content once more is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

const VERSION: u32 = 1;

impl Outcome {
    pub(super) const fn declined(declined: BTreeSet<String>) -> Self {
        Self { version: VERSION, declined, result: None }
    }

    pub(super) fn result(mut result: CallToolResult) -> Result<Self, Error> {
        let said = result.structured_content.as_ref().map(Value::to_string);
        let same =
            |block: &ContentBlock| block.as_text().is_some_and(|text| Some(&text.text) == said.as_ref());
        result.content.retain(|block| !same(block));
        let result = serde_json::to_value(result).map_err(|error| {
            Error::new(ErrorCode::Internal, format!("the result cannot be kept: {error}"))
        })?;
        Ok(Self { version: VERSION, declined: BTreeSet::new(), result: Some(result) })
    }

    fn encode(&self) -> Result<Vec<u8>, Error> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if bytes.len() > OUTCOME_BYTES {
            let message = format!("the result has {} KiB, more than a task may hold", bytes.len() >> 10);
            return Err(Error::new(ErrorCode::LimitReached, message)
                .hint("wait for fewer sessions at a time; get_session_status shows each"));
        }
        Ok(bytes)
    }

    /// What an earlier gateway kept; nothing where it kept nothing.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let outcome: Self = serde_json::from_slice(bytes).ok()?;
        (outcome.version == VERSION).then_some(outcome)
    }

    /// The result of the call, whole.
    pub(super) fn whole(self) -> Option<JsonObject> {
        let Value::Object(mut result) = self.result? else { return None };
        if let Some(said) = result.get("structuredContent").map(Value::to_string)
            && let Some(Value::Array(content)) = result.get_mut("content")
        {
            content.insert(0, serde_json::json!({ "type": "text", "text": said }));
        }
        Some(result)
    }
}

/// The records of one caller.
#[derive(Debug, Clone)]
pub(super) struct Records {
    controller: Controller,
}

impl Records {
    pub(super) const fn new(controller: Controller) -> Self {
        Self { controller }
    }

    fn client(&self) -> TaskServiceClient<crate::link::Service> {
        TaskServiceClient::new(self.controller.service())
    }

    /// A task that lives a while longer than `lasts`.
    pub(super) async fn create(&self, id: &str, request: Vec<u8>, lasts: Duration) -> Result<Task, Error> {
        let ttl = lasts.saturating_add(STAYS).min(LONGEST);
        let request = CreateTaskRequest {
            task_id: id.to_owned(),
            request,
            ttl_seconds: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
        };
        let client = self.client();
        let response = self
            .controller
            .call(|_| {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.create_task(request).await }
            })
            .await?;
        required(response.task)
    }

    pub(super) async fn get(&self, id: &str) -> Result<Task, Error> {
        let client = self.client();
        let response = self
            .controller
            .call(|_| {
                let mut client = client.clone();
                let request = GetTaskRequest { task_id: id.to_owned() };
                async move { client.get_task(request).await }
            })
            .await?;
        required(response.task)
    }

    /// What came of it; the first end counts.
    pub(super) async fn update(&self, id: &str, state: TaskState, outcome: &Outcome) -> Result<Task, Error> {
        let request =
            UpdateTaskRequest { task_id: id.to_owned(), state: state.into(), outcome: outcome.encode()? };
        let client = self.client();
        let response = self
            .controller
            .call(|_| {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.update_task(request).await }
            })
            .await?;
        required(response.task)
    }
}

fn required(task: Option<Task>) -> Result<Task, Error> {
    task.ok_or_else(|| Error::new(ErrorCode::Internal, "the controller answered without a task"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_comes_back_as_it_went() {
        let structured = json!({"reason": "completed", "ready": ["ä"]});
        let mut result = CallToolResult::success(vec![ContentBlock::text(structured.to_string())]);
        result.structured_content = Some(structured);
        let whole = serde_json::to_value(&result).expect("JSON");
        let kept = Outcome::result(result).expect("kept").encode().expect("small");
        assert!(kept.len() < whole.to_string().len());
        let back = Outcome::decode(&kept).expect("of this version").whole().expect("a result");
        assert_eq!(Value::Object(back), whole);

        let failed = CallToolResult::error(vec![ContentBlock::text("session_not_found: none.")]);
        let whole = serde_json::to_value(&failed).expect("JSON");
        let kept = Outcome::result(failed).expect("kept").encode().expect("small");
        let back = Outcome::decode(&kept).expect("of this version").whole().expect("a result");
        assert_eq!(Value::Object(back), whole);
    }

    #[test]
    fn what_another_version_kept_is_not_misread() {
        assert!(Outcome::decode(b"").expect("nothing").whole().is_none());
        for bytes in [&b"{\"version\":2}"[..], b"{}garbage", b"7"] {
            assert!(Outcome::decode(bytes).is_none());
        }
        let declined = BTreeSet::from(["fix/a1".to_owned()]);
        let kept = Outcome::declined(declined.clone()).encode().expect("small");
        assert_eq!(kept, br#"{"version":1,"declined":["fix/a1"]}"#, "a published format");
        assert_eq!(Outcome::decode(&kept).expect("ours").declined, declined);
    }
}
