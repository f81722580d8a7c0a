//! Tasks this gateway is waiting for at the moment.
//!
//! The record in the controller is the truth; what is here only watches, and may be dropped at any time: whoever asks
//! for the task next begins to watch again, here or in another gateway. Invariant: a task that nobody asks for, or
//! that was cancelled, holds nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muster_proto::{
    error::{Error, ErrorCode},
    v1::TaskState,
};
use muster_runtime::{
    backoff::Backoff,
    task::{self, Task},
};
use rmcp::model::{CallToolResponse, InputRequests};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::records::{Outcome, Records};
use crate::{
    error,
    tools::{Asker, Call, Plan, Questions, wait, wait_progress},
    watches::Watch,
};

/// A task nobody asks for is not watched any longer. Clients ask every few seconds; one that sleeps comes back.
const UNASKED: Duration = Duration::from_secs(600);
/// Tasks watched at a time; the one that was not asked for for the longest time gives way.
const MOST: usize = 10_000;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Whose, and which.
type Key = (Vec<u8>, String);

/// A task that is being watched.
#[derive(Debug)]
pub(super) struct Live {
    watch: Watch,
    asked_for: usize,
    pub(super) questions: Arc<Questions>,
    asked: Mutex<Instant>,
    ended: watch::Receiver<bool>,
    /// Aborted when the last hold on this is gone.
    running: Mutex<Option<Task<()>>>,
}

impl Live {
    /// What it is doing, for people.
    pub(super) fn message(&self) -> Option<String> {
        let look = self.watch.look().ok()?;
        Some(wait_progress(self.asked_for, &look))
    }

    pub(super) fn open_questions(&self) -> InputRequests {
        self.questions.open()
    }

    /// Returns when it has ended, or at the latest after `patience`.
    pub(super) async fn ended(&self, patience: Duration) {
        let mut ended = self.ended.clone();
        let _ = tokio::time::timeout(patience, ended.wait_for(|ended| *ended)).await;
    }

    fn stop(&self) {
        drop(self.running.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// All of them.
#[derive(Debug, Default, Clone)]
pub(super) struct LiveTasks {
    tasks: Arc<Mutex<HashMap<Key, Arc<Live>>>>,
}

fn key(call: &Call, id: &str) -> Key {
    (call.caller.name().as_bytes().to_vec(), id.to_owned())
}

impl LiveTasks {
    /// The task, if it is watched here.
    pub(super) fn get(&self, call: &Call, id: &str) -> Option<Arc<Live>> {
        let live = self.lock().get(&key(call, id)).cloned()?;
        *live.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Some(live)
    }

    /// Begins to watch it. `call` is whose the task is; it outlives the request it came with.
    pub(super) fn begin(&self, mut call: Call, id: &str, plan: Plan) -> Arc<Live> {
        let key = key(&call, id);
        let mut tasks = self.lock();
        if let Some(live) = tasks.get(&key) {
            return live.clone();
        }
        if tasks.len() >= MOST {
            let oldest = tasks
                .iter()
                .min_by_key(|(_, live)| *live.asked.lock().unwrap_or_else(PoisonError::into_inner))
                .map(|(key, _)| key.clone());
            if let Some(live) = oldest.and_then(|oldest| tasks.remove(&oldest)) {
                live.stop();
            }
        }
        let (ended, has_ended) = watch::channel(false);
        let live = Arc::new(Live {
            watch: call.watches.watch(plan.sessions()),
            asked_for: plan.sessions().len(),
            questions: Arc::default(),
            asked: Mutex::new(Instant::now()),
            ended: has_ended,
            running: Mutex::default(),
        });
        tasks.insert(key.clone(), live.clone());
        drop(tasks);
        // A task is no request that could be withdrawn. That the gateway leaves ends the watching and not the wait,
        // which therefore must not hear of it.
        call.cancelled = CancellationToken::new();
        call.progress = None;
        let leaving = std::mem::take(&mut call.leaving);
        let hung_up = std::mem::take(&mut call.hung_up);
        let (all, watched) = (self.clone(), Arc::downgrade(&live));
        let (watch, questions) = (call.watches.watch(plan.sessions()), live.questions.clone());
        let records = Records::new(call.controller().clone());
        let running = task::spawn("mcp task", async move {
            let unasked = async {
                while let Some(live) = watched.upgrade() {
                    let until = *live.asked.lock().unwrap_or_else(PoisonError::into_inner) + UNASKED;
                    drop(live);
                    if until <= Instant::now() {
                        return;
                    }
                    sleep_until(until).await;
                }
            };
            tokio::select! {
                () = to_the_end(&call, &plan, &watch, questions, &records, &key.1) => {}
                () = leaving.requested() => {}
                () = hung_up.cancelled() => {}
                () = unasked => {}
            }
            all.lock().remove(&key);
            let _ = ended.send(true);
        });
        *live.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        live
    }

    /// Frees what it holds here.
    pub(super) fn end(&self, call: &Call, id: &str) {
        if let Some(live) = self.lock().remove(&key(call, id)) {
            live.stop();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Live>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits and keeps what came of it.
async fn to_the_end(
    call: &Call,
    plan: &Plan,
    watch: &Watch,
    questions: Arc<Questions>,
    records: &Records,
    id: &str,
) {
    let asker = Asker::Task(questions);
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let result = loop {
        match wait(call, plan, watch, &asker).await {
            Ok(CallToolResponse::Complete(result)) => break result,
            Ok(_) => break error::to_result(&Error::new(ErrorCode::Internal, "a task cannot end so")),
            // The time of the task is not over because nobody could be asked.
            Err(failure) if failure.code == ErrorCode::ControllerUnavailable && !plan.left().is_zero() => {
                sleep(backoff.next_delay().min(plan.left())).await;
            }
            Err(failure) => break error::to_result(&failure),
        }
    };
    let outcome = Outcome::result(result).unwrap_or_default();
    loop {
        match records.update(id, TaskState::Completed, &outcome).await {
            Err(failure) if failure.code == ErrorCode::LimitReached => {
                let told = Outcome::result(error::to_result(&failure)).unwrap_or_default();
                if let Err(failure) = records.update(id, TaskState::Completed, &told).await {
                    tracing::warn!(error = %failure, "the end of a task was not kept");
                }
                return;
            }
            Err(failure)
                if matches!(failure.code, ErrorCode::ControllerUnavailable | ErrorCode::StoreUnavailable) =>
            {
                sleep(backoff.next_delay()).await;
            }
            Err(failure) if failure.code != ErrorCode::TaskEnded => {
                tracing::warn!(error = %failure, "the end of a task was not kept");
                return;
            }
            _ => return,
        }
    }
}
