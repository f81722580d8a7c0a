//! Waits as MCP tasks (extension `io.modelcontextprotocol/tasks`), for clients of 2026-07-28 that know them.
//!
//! A wait is an ordinary call for a few seconds and then a task: a record in the controller. Invariant: a task
//! outlives every gateway; whichever is asked for it goes on with it. Cancelling it ends the wait, not the sessions.

mod live;
mod records;

use std::{sync::Arc, time::Duration};

use muster_proto::{
    error::{Error, ErrorCode},
    time::to_system,
    v1::{self, TaskState},
};
use rmcp::{
    ErrorData,
    model::{
        CallToolResponse, CreateTaskResult, DetailedTask, ElicitResult, GetTaskResult, InputResponses,
        JsonObject, Task, TaskPayload, TaskStatus,
    },
};
use serde_json::json;
use tokio::time::timeout;

use self::{
    live::{Live, LiveTasks},
    records::{Outcome, Records},
};
use crate::{
    args, error,
    render::time,
    tools::{Asker, Call, Plan, WaitArgs, give_answer, plan_wait, wait},
};

/// How often clients shall ask, in milliseconds.
const POLL_MS: u64 = 2000;
/// How long whoever asks for a task that was not watched here waits for what may have come meanwhile.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Longest status message, in characters.
const MESSAGE_CHARS: usize = 200;

/// The tasks of a gateway. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    live: LiveTasks,
}

impl Tasks {
    /// `wait_for_completion` of a client that knows tasks.
    pub(crate) async fn wait(
        &self,
        call: Call,
        schema: &JsonObject,
        arguments: JsonObject,
    ) -> Result<CallToolResponse, Error> {
        let args: WaitArgs = args::parse(schema, arguments)?;
        let plan = plan_wait(&call, &args, call.config.task_waits).await?;
        // Held on: the stream stays open while the wait changes hands.
        let watch = call.watches.watch(plan.sessions());
        let asker = Asker::of(&call);
        let inline = wait(&call, &plan, &watch, &asker);
        if let Ok(ended) = timeout(call.config.task_after, inline).await {
            return ended;
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let records = Records::new(call.controller().clone());
        let record = match records.create(&id, plan.encode(), plan.left()).await {
            Ok(record) => record,
            Err(error) => {
                // An older controller, or too many tasks: then it is a call like any other.
                tracing::debug!(error = %error, "a wait did not become a task");
                let plan = plan_wait(&call, &args, call.waits).await?;
                return wait(&call, &plan, &watch, &asker).await;
            }
        };
        if call.cancelled.is_cancelled() {
            // Nobody learns of it any more.
            let cancelled = records.update(&id, TaskState::Cancelled, &Outcome::default()).await;
            tracing::debug!(?cancelled, "a task was withdrawn before it began");
        } else {
            self.live.begin(call, &id, plan);
        }
        Ok(CreateTaskResult::new(seed(&record, None)).into())
    }

    /// How far a task is.
    pub(crate) async fn get(&self, call: Call, id: &str) -> Result<GetTaskResult, ErrorData> {
        let records = Records::new(call.controller().clone());
        let mut record = records.get(id).await.map_err(|error| failed(&error))?;
        let mut message = None;
        let mut open = None;
        if record.state() == TaskState::Working {
            let live = match self.live.get(&call, id) {
                Some(live) => live,
                None => {
                    let live = self.adopt(call, id, &record)?;
                    live.ended(CATCH_UP).await;
                    record = records.get(id).await.map_err(|error| failed(&error))?;
                    live
                }
            };
            message = live.message();
            open = Some(live.open_questions()).filter(|open| !open.is_empty());
        }
        let payload = match (record.state(), open) {
            (TaskState::Working, Some(input_requests)) => TaskPayload::InputRequired { input_requests },
            (TaskState::Working | TaskState::Unspecified, _) => TaskPayload::Working,
            (TaskState::Completed, _) => {
                let outcome = Outcome::decode(&record.outcome).and_then(Outcome::whole);
                let result = outcome.ok_or_else(|| unreadable("result"))?;
                TaskPayload::Completed { result }
            }
            (TaskState::Cancelled, _) => TaskPayload::Cancelled,
            (TaskState::Failed, _) => {
                let error = json!({ "code": -32603, "message": "the task failed" });
                TaskPayload::Failed { error: error.as_object().cloned().unwrap_or_default() }
            }
        };
        Ok(GetTaskResult::new(DetailedTask::new(seed(&record, message), payload)))
    }

    /// Hands on what the person at the client answered.
    pub(crate) async fn update(
        &self,
        call: Call,
        id: &str,
        answers: InputResponses,
    ) -> Result<(), ErrorData> {
        let records = Records::new(call.controller().clone());
        let record = records.get(id).await.map_err(|error| failed(&error))?;
        if record.state() != TaskState::Working {
            return Err(ErrorData::invalid_params("the task has ended", None));
        }
        let (mut answered, mut declined) = (Vec::new(), Vec::new());
        for (key, answer) in &answers {
            let answer = serde_json::from_value::<ElicitResult>(answer.clone());
            let given = match answer {
                Ok(answer) => give_answer(&call, key, &answer).await.map_err(|error| failed(&error))?,
                Err(_) => false,
            };
            if given { answered.push(key) } else { declined.push(key) }
        }
        let live = match self.live.get(&call, id) {
            Some(live) => live,
            None => self.adopt(call, id, &record)?,
        };
        answered.iter().for_each(|key| live.questions.answer(key));
        if declined.is_empty() {
            return Ok(());
        }
        declined.iter().for_each(|key| live.questions.decline(key));
        let outcome = Outcome::declined(live.questions.declined());
        match records.update(id, TaskState::Working, &outcome).await {
            Err(error) if error.code != ErrorCode::TaskEnded => Err(failed(&error)),
            _ => Ok(()),
        }
    }

    /// Ends the wait; the sessions go on.
    pub(crate) async fn cancel(&self, call: &Call, id: &str) -> Result<(), ErrorData> {
        let records = Records::new(call.controller().clone());
        // Before the record: what is watched here is free at once, however the controller is.
        self.live.end(call, id);
        match records.update(id, TaskState::Cancelled, &Outcome::default()).await {
            Ok(_) => Ok(()),
            Err(error) if error.code == ErrorCode::TaskEnded => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Goes on with a task that another gateway began, or this one before it was started anew.
    fn adopt(&self, call: Call, id: &str, record: &v1::Task) -> Result<Arc<Live>, ErrorData> {
        let mut plan = Plan::decode(&record.request).ok_or_else(|| unreadable("request"))?;
        let outcome = Outcome::decode(&record.outcome).ok_or_else(|| unreadable("outcome"))?;
        let declined = outcome.declined;
        plan.leave_unanswered(declined.iter().cloned());
        let live = self.live.begin(call, id, plan);
        declined.iter().for_each(|key| live.questions.decline(key));
        Ok(live)
    }
}

fn seed(record: &v1::Task, message: Option<String>) -> Task {
    let at = |at: &Option<_>| at.as_ref().map(time).unwrap_or_default();
    let mut task =
        Task::new(&record.task_id, TaskStatus::Working, at(&record.created_at), at(&record.changed_at))
            .with_poll_interval_ms(POLL_MS);
    task.status_message = message
        .map(|message| message.chars().take(MESSAGE_CHARS).collect())
        .filter(|text: &String| !text.is_empty());
    if let (Some(created), Some(expires)) = (&record.created_at, &record.expires_at) {
        let lasts = to_system(expires).duration_since(to_system(created)).unwrap_or_default();
        task.ttl_ms = u64::try_from(lasts.as_millis()).ok();
    }
    task
}

fn unreadable(what: &str) -> ErrorData {
    let message = format!("the {what} of this task is of another version of the gateway: upgrade this one");
    ErrorData::internal_error(message, None)
}

fn failed(failure: &Error) -> ErrorData {
    match failure.code {
        // An id that cannot be one reads the same as one that is another's.
        ErrorCode::TaskNotFound | ErrorCode::InvalidArgument => {
            ErrorData::invalid_params("there is no such task", None)
        }
        ErrorCode::PermissionDenied => ErrorData::invalid_params(error::to_text(failure), None),
        _ => ErrorData::internal_error(error::to_text(failure), None),
    }
}
