//! Long calls of gateways that outlive the gateway: what was asked and what came of it, in the store.
//!
//! Called by the task service; knows nothing of what is in them. An index of who has which task is in memory,
//! the texts are in the store alone. Invariants: a task is durable before anybody hears of it, a caller finds
//! its own only, and the first end of a task counts.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{Task, TaskState},
};
use prost_types::Timestamp;

use crate::{
    session::stored,
    store::{self, Revision, Shared, Txn, keys, value::Kind},
};

/// Tasks of one caller that have not expired.
const EACH: usize = 1000;
/// Expired tasks removed with one transaction.
const SWEPT: usize = 256;
/// How often somebody else may be first before it is said to be busy.
const TRIES: usize = 8;
/// How often expired tasks are looked for. They are not found before that either.
pub const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// As stored: fields are added, numbers never reused.
#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(message, optional, tag = "1")]
    task: Option<Task>,
    /// Its life from the last change.
    #[prost(uint32, tag = "2")]
    ttl_seconds: u32,
}

/// What is known of a task without reading it.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// 0 while it is being made.
    revision: Revision,
    expires_at: i64,
}

/// Caller and id.
type Key = (String, String);

struct Inner {
    store: Shared,
    known: Mutex<BTreeMap<Key, Known>>,
}

/// All tasks. Cheap to clone.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

impl Tasks {
    /// Finds those there are.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Shared) -> Result<Self, store::Error> {
        let mut known = BTreeMap::new();
        for (key, entry) in store.scan(keys::TASKS).await? {
            let record = stored::opened::<Record>(Kind::Task, &entry.value);
            match (keys::parse_task(&key), record) {
                (Some((caller, id)), Ok(record)) => {
                    let expires_at = record.task.and_then(|task| task.expires_at).map_or(0, |at| at.seconds);
                    let revision = entry.revision;
                    known.insert((caller.to_owned(), id.to_owned()), Known { revision, expires_at });
                }
                _ => tracing::warn!(key, "a stored task cannot be read and is not found"),
            }
        }
        Ok(Self(Arc::new(Inner { store, known: Mutex::new(known) })))
    }

    /// Makes a task, or finds the one made by the same call before.
    ///
    /// # Errors
    /// REQUEST_ID_CONFLICT when another request has the id, LIMIT_REACHED, or when it cannot be made durable.
    pub async fn create(
        &self,
        caller: &str,
        id: &str,
        request: Vec<u8>,
        ttl_seconds: u32,
    ) -> Result<Task, Error> {
        let key = (caller.to_owned(), id.to_owned());
        let task = Task {
            task_id: id.to_owned(),
            request,
            state: TaskState::Working.into(),
            created_at: Some(muster_proto::time::now()),
            ..Task::default()
        };
        for _ in 0..TRIES {
            if let Some((_, record)) = self.find(&key).await? {
                let there = record.task.unwrap_or_default();
                if there.request == task.request {
                    return Ok(there);
                }
                let message = format!("the task {id} was made before with another request");
                return Err(Error {
                    field: "taskId".to_owned(),
                    ..Error::new(ErrorCode::RequestIdConflict, message)
                });
            }
            let before = self.reserve(&key)?;
            let written = self.write(&key, before, task.clone(), ttl_seconds).await;
            if !matches!(written, Ok(Some(_))) {
                self.unreserve(&key);
            }
            if let Some(task) = written? {
                return Ok(task);
            }
        }
        Err(busy(id))
    }

    /// Reads a task.
    ///
    /// # Errors
    /// TASK_NOT_FOUND, also for one of somebody else and one that has expired.
    pub async fn get(&self, caller: &str, id: &str) -> Result<Task, Error> {
        let found = self.find(&(caller.to_owned(), id.to_owned())).await?;
        found.and_then(|(_, record)| record.task).ok_or_else(|| not_found(id))
    }

    /// Notes what came of a task. The same end again is success.
    ///
    /// # Errors
    /// As [`Tasks::get`]; TASK_ENDED when it has ended otherwise.
    pub async fn update(
        &self,
        caller: &str,
        id: &str,
        state: TaskState,
        outcome: Vec<u8>,
    ) -> Result<Task, Error> {
        let key = (caller.to_owned(), id.to_owned());
        for _ in 0..TRIES {
            let (before, record) = self.find(&key).await?.ok_or_else(|| not_found(id))?;
            let mut task = record.task.ok_or_else(|| not_found(id))?;
            if task.state() != TaskState::Working {
                if task.state() == state && task.outcome == outcome {
                    return Ok(task);
                }
                let message = format!("the task {id} has ended as {}", task.state().as_str_name());
                return Err(Error::new(ErrorCode::TaskEnded, message).hint("Read it: the first end counts."));
            }
            task.set_state(state);
            task.outcome.clone_from(&outcome);
            if let Some(task) = self.write(&key, before, task, record.ttl_seconds).await? {
                return Ok(task);
            }
        }
        Err(busy(id))
    }

    /// Removes what has expired.
    pub async fn sweep(&self) {
        loop {
            let now = muster_proto::time::now().seconds;
            let old: Vec<(Key, Known)> = {
                let known = self.known();
                let old = known.iter().filter(|(_, known)| known.revision > 0 && known.expires_at <= now);
                old.take(SWEPT).map(|(key, known)| (key.clone(), *known)).collect()
            };
            if old.is_empty() {
                return;
            }
            let mut txn = Txn::new();
            for ((caller, id), known) in &old {
                let key = keys::task(caller, id);
                txn.expect(key.clone(), known.revision).delete(key);
            }
            if let Err(error) = self.0.store.commit(txn).await {
                tracing::info!(error = %error, "expired tasks are removed later");
                return;
            }
            let mut known = self.known();
            for (key, was) in &old {
                if known.get(key).is_some_and(|now| now.revision == was.revision) {
                    known.remove(key);
                }
            }
        }
    }

    /// A task that has not expired, and its revision.
    async fn find(&self, key: &Key) -> Result<Option<(Revision, Record)>, Error> {
        let now = muster_proto::time::now().seconds;
        let is_there =
            self.known().get(key).is_some_and(|known| known.revision > 0 && known.expires_at > now);
        if !is_there {
            return Ok(None);
        }
        let Some(entry) = self.0.store.get(&keys::task(&key.0, &key.1)).await.map_err(unavailable)? else {
            return Ok(None);
        };
        let record = stored::opened::<Record>(Kind::Task, &entry.value)
            .map_err(|error| Error::new(ErrorCode::Internal, format!("the task cannot be read: {error}")))?;
        Ok(Some((entry.revision, record)))
    }

    /// Keeps a place among the caller's tasks; returns the revision of an expired one that is replaced.
    fn reserve(&self, key: &Key) -> Result<Revision, Error> {
        let now = muster_proto::time::now().seconds;
        let mut known = self.known();
        let mine = known.range((key.0.clone(), String::new())..).take_while(|(other, _)| other.0 == key.0);
        let count = mine.filter(|(other, known)| *other != key && known.expires_at > now).count();
        if count >= EACH {
            let message = format!("{} has {EACH} tasks, as many as allowed", key.0);
            return Err(Error::new(ErrorCode::LimitReached, message).hint("Wait until some have expired."));
        }
        let place = known.entry(key.clone()).or_insert(Known { revision: 0, expires_at: i64::MAX });
        Ok(place.revision)
    }

    fn unreserve(&self, key: &Key) {
        let mut known = self.known();
        if known.get(key).is_some_and(|known| known.revision == 0) {
            known.remove(key);
        }
    }

    /// Makes a task durable; none when somebody else was first.
    async fn write(
        &self,
        key: &Key,
        before: Revision,
        mut task: Task,
        ttl_seconds: u32,
    ) -> Result<Option<Task>, Error> {
        let now = muster_proto::time::now();
        let expires_at = now.seconds.saturating_add(ttl_seconds.into());
        task.changed_at = Some(now);
        task.expires_at = Some(Timestamp { seconds: expires_at, ..now });
        let name = keys::task(&key.0, &key.1);
        let record = Record { task: Some(task.clone()), ttl_seconds };
        let mut txn = Txn::new();
        txn.expect(name.clone(), before).put(name, stored::sealed(Kind::Task, &record));
        match self.0.store.commit(txn).await {
            Ok(revision) => {
                let mut known = self.known();
                let place = known.entry(key.clone()).or_insert(Known { revision, expires_at });
                // A later write may have been noted first.
                if place.revision <= revision {
                    *place = Known { revision, expires_at };
                }
                Ok(Some(task))
            }
            Err(store::Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn unavailable(error: store::Error) -> Error {
    Error::new(ErrorCode::StoreUnavailable, error.to_string()).hint("Nothing was changed. Try again.")
}

fn not_found(id: &str) -> Error {
    let message = format!("there is no task {id:?}, or it has expired");
    Error { field: "taskId".to_owned(), ..Error::new(ErrorCode::TaskNotFound, message) }
}

fn busy(id: &str) -> Error {
    Error::new(ErrorCode::StoreUnavailable, format!("the task {id} is changed by many at once"))
        .hint("Try again.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{failing::Failing, memory::Memory};

    const ID: &str = "0123456789abcdef";

    #[tokio::test]
    async fn a_task_is_its_callers_own_ends_once_and_outlives_a_restart() {
        let store: Shared = Arc::new(Memory::default());
        let tasks = Tasks::open(Arc::clone(&store)).await.expect("opened");
        let made = tasks.create("gw/ann", ID, b"wait".to_vec(), 60).await.expect("made");
        assert_eq!(tasks.create("gw/ann", ID, b"wait".to_vec(), 9).await.expect("the same"), made);
        let other = tasks.create("gw/ann", ID, b"other".to_vec(), 60).await.expect_err("conflict");
        assert_eq!(other.code, ErrorCode::RequestIdConflict);
        assert_eq!(tasks.get("gw", ID).await.expect_err("foreign").code, ErrorCode::TaskNotFound);
        tasks.update("gw/ann", ID, TaskState::Working, b"1/3".to_vec()).await.expect("changed");
        tasks.update("gw/ann", ID, TaskState::Completed, b"3/3".to_vec()).await.expect("ended");
        tasks.update("gw/ann", ID, TaskState::Completed, b"3/3".to_vec()).await.expect("twice is once");
        let late = tasks.update("gw/ann", ID, TaskState::Cancelled, Vec::new()).await.expect_err("ended");
        assert_eq!(late.code, ErrorCode::TaskEnded);
        let again = Tasks::open(store).await.expect("opened");
        let task = again.get("gw/ann", ID).await.expect("kept");
        assert_eq!((task.state(), task.outcome.as_slice()), (TaskState::Completed, &b"3/3"[..]));
    }

    #[tokio::test]
    async fn a_caller_has_a_thousand_and_expired_ones_make_room_and_go() {
        let store: Shared = Arc::new(Memory::default());
        let tasks = Tasks::open(Arc::clone(&store)).await.expect("opened");
        for number in 0..EACH {
            tasks.create("ann", &format!("{ID}{number}"), Vec::new(), 60).await.expect("room");
        }
        let full = tasks.create("ann", ID, Vec::new(), 60).await.expect_err("full");
        assert_eq!(full.code, ErrorCode::LimitReached);
        tasks.create("ben", ID, Vec::new(), 0).await.expect("others have room");
        assert_eq!(tasks.get("ben", ID).await.expect_err("expired").code, ErrorCode::TaskNotFound);
        tasks.sweep().await;
        assert_eq!(store.scan(keys::TASKS).await.expect("readable").len(), EACH);
        tasks.create("ben", ID, b"anew".to_vec(), 60).await.expect("its id is free again");
    }

    #[tokio::test]
    async fn what_is_not_durable_did_not_happen_and_takes_no_place() {
        let (store, switch) = Failing::new(Arc::new(Memory::default()));
        let tasks = Tasks::open(Arc::new(store)).await.expect("opened");
        switch.fail(true);
        let refused = tasks.create("ann", ID, Vec::new(), 60).await.expect_err("full");
        assert_eq!(refused.code, ErrorCode::StoreUnavailable);
        switch.fail(false);
        assert!(tasks.known().is_empty());
        tasks.create("ann", ID, Vec::new(), 60).await.expect("made");
        switch.fail(true);
        tasks.update("ann", ID, TaskState::Failed, Vec::new()).await.expect_err("full");
        switch.fail(false);
        assert_eq!(tasks.get("ann", ID).await.expect("as it was").state(), TaskState::Working);
    }
}
