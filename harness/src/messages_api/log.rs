//! Every request the API took, in order. Tests read it to see which bytes the model really received.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::watch;

/// One request. Header values that authenticate are replaced by `***`.
#[derive(Debug, Clone, Serialize)]
pub struct RequestRecord {
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// `X-Claude-Code-Session-Id`; subagents carry their parent's.
    pub session: String,
    /// Whether it carried tools: a turn of the session, no title or classifier.
    pub main: bool,
    /// Which list answered, see [`crate::scenario::Chosen`].
    pub marker: String,
    /// Position in it.
    pub index: Option<usize>,
    /// Lower-case names.
    pub headers: Map<String, Value>,
    /// The body, or null when it is no JSON.
    #[serde(serialize_with = "shared")]
    pub body: Arc<Value>,
}

fn shared<S: serde::Serializer>(value: &Arc<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().serialize(serializer)
}

impl RequestRecord {
    /// Every user text of the request, oldest first: prompts, reminders, not tool results.
    #[must_use]
    pub fn user_texts(&self) -> Vec<String> {
        crate::scenario::Conversation::read(&self.body).user_texts
    }

    /// Text of the tool results, oldest first.
    #[must_use]
    pub fn tool_results(&self) -> Vec<String> {
        let conversation = crate::scenario::Conversation::read(&self.body);
        conversation.tool_results.into_iter().map(|result| result.text).collect()
    }
}

/// The log itself. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct RequestLog {
    records: Arc<Mutex<Vec<RequestRecord>>>,
    count: watch::Sender<usize>,
}

impl Default for RequestLog {
    fn default() -> Self {
        Self { records: Arc::default(), count: watch::Sender::new(0) }
    }
}

impl RequestLog {
    pub(super) fn push(&self, record: RequestRecord) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.push(record);
        self.count.send_replace(records.len());
    }

    /// Everything so far, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<RequestRecord> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Turns of this session, oldest first.
    #[must_use]
    pub fn main_of(&self, session: &str) -> Vec<RequestRecord> {
        self.all().into_iter().filter(|record| record.main && record.session == session).collect()
    }

    /// The first record `wanted` accepts, old or new.
    ///
    /// # Panics
    /// When none comes within `limit`.
    pub async fn wait_for(&self, limit: Duration, wanted: impl Fn(&RequestRecord) -> bool) -> RequestRecord {
        let mut count = self.count.subscribe();
        let search = async {
            loop {
                count.borrow_and_update();
                if let Some(record) = self.all().into_iter().find(|record| wanted(record)) {
                    return record;
                }
                count.changed().await.expect("the log holds the sender");
            }
        };
        tokio::time::timeout(limit, search).await.expect("the request awaited did not come")
    }
}
