//! Questions to workers that wait for their answer.
//!
//! A caller opens one with [`Queries::open`], the engine sends it down the worker's link, and the answer
//! comes back over a call of its own that hands each part to [`Answering::give`]. Parts go through a small
//! bounded pipe: a slow caller slows the worker's upload and grows no memory. Invariant: a query is known
//! exactly as long as its [`Asked`] lives, which ends with the caller, the link or the patience for either.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{Incarnation, WorkerId},
};
use tokio::{sync::mpsc, time::timeout};

use super::link::Closed;

/// Queries in flight. Past it callers are refused and may try again.
const IN_FLIGHT: usize = 256;
/// Parts between the worker's upload and the caller. When full, the upload waits.
const PARTS: usize = 4;
/// How long a caller waits for the next part, and a worker for the caller to take one.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Every open query. Cheap to clone.
#[derive(Debug)]
pub struct Queries<P> {
    shared: Arc<Shared<P>>,
    patience: Duration,
}

#[derive(Debug)]
struct Shared<P> {
    open: Mutex<HashMap<String, Waiting<P>>>,
    /// Part of every id: an answer to a query of an earlier life must not meet one of this.
    life: Incarnation,
    next: AtomicU64,
}

#[derive(Debug)]
struct Waiting<P> {
    worker: WorkerId,
    /// Taken by the first who answers.
    parts: Option<mpsc::Sender<Part<P>>>,
}

#[derive(Debug)]
enum Part<P> {
    Data(P),
    /// Nothing is missing.
    End,
}

/// The caller's end. Dropping it forgets the query.
#[derive(Debug)]
pub struct Asked<P> {
    /// Name of the query on the wire.
    pub id: String,
    shared: Arc<Shared<P>>,
    worker: WorkerId,
    parts: mpsc::Receiver<Part<P>>,
    link: Closed,
    patience: Duration,
}

/// The answering worker's end. Dropped without [`Answering::end`], the caller is told that it broke off.
#[derive(Debug)]
pub struct Answering<P> {
    parts: mpsc::Sender<Part<P>>,
    patience: Duration,
}

/// Nobody waits for the answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody waits for this answer any more")]
pub struct Forgotten;

impl<P> Clone for Queries<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), patience: self.patience }
    }
}

impl<P> Queries<P> {
    /// None open; each end waits `patience` for the other.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        let shared =
            Shared { open: Mutex::default(), life: Incarnation::generate(), next: AtomicU64::new(1) };
        Self { shared: Arc::new(shared), patience }
    }

    /// Opens a query to `worker`, which ends at the latest with `link`.
    ///
    /// # Errors
    /// LIMIT_REACHED when too many are open.
    pub fn open(&self, worker: WorkerId, link: Closed) -> Result<Asked<P>, Error> {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= IN_FLIGHT {
            let message = format!("{IN_FLIGHT} questions to workers wait for an answer already");
            return Err(Error::new(ErrorCode::LimitReached, message).hint("Try again in a moment."));
        }
        let id = format!("{}-{}", self.shared.life, self.shared.next.fetch_add(1, Ordering::Relaxed));
        let (sender, parts) = mpsc::channel(PARTS);
        open.insert(id.clone(), Waiting { worker: worker.clone(), parts: Some(sender) });
        drop(open);
        let shared = Arc::clone(&self.shared);
        Ok(Asked { id, shared, worker, parts, link, patience: self.patience })
    }

    /// Begins the answer of `worker` to the query `id`; only the first does.
    ///
    /// # Errors
    /// [`Forgotten`] when nobody waits for it, or not from this worker.
    pub fn answer(&self, worker: &WorkerId, id: &str) -> Result<Answering<P>, Forgotten> {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = open.get_mut(id).filter(|waiting| waiting.worker == *worker).ok_or(Forgotten)?;
        let parts = waiting.parts.take().ok_or(Forgotten)?;
        Ok(Answering { parts, patience: self.patience })
    }

    /// Queries that wait now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl<P> Asked<P> {
    /// The next part; none once the answer is complete.
    ///
    /// # Errors
    /// WORKER_UNREACHABLE when the link goes, the worker breaks off, or nothing comes for too long.
    pub async fn next(&mut self) -> Result<Option<P>, Error> {
        let part = tokio::select! {
            // What has come counts, whatever became of the link since.
            biased;
            part = timeout(self.patience, self.parts.recv()) => part,
            _ = self.link.closed() => return Err(unreachable(&self.worker, "went away before it answered")),
        };
        match part {
            Ok(Some(Part::Data(part))) => Ok(Some(part)),
            Ok(Some(Part::End)) => Ok(None),
            Ok(None) => Err(unreachable(&self.worker, "broke off its answer")),
            Err(_) => {
                let seconds = self.patience.as_secs();
                Err(unreachable(&self.worker, &format!("did not answer for {seconds} s")))
            }
        }
    }
}

impl<P> Drop for Asked<P> {
    fn drop(&mut self) {
        self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl<P> Answering<P> {
    /// Hands a part to the caller; waits while the caller is slow.
    ///
    /// # Errors
    /// [`Forgotten`] when the caller has gone, or took nothing for too long.
    pub async fn give(&self, part: P) -> Result<(), Forgotten> {
        self.send(Part::Data(part)).await
    }

    /// Says that nothing is missing.
    ///
    /// # Errors
    /// As [`Answering::give`].
    pub async fn end(self) -> Result<(), Forgotten> {
        self.send(Part::End).await
    }

    async fn send(&self, part: Part<P>) -> Result<(), Forgotten> {
        let sent = timeout(self.patience, self.parts.send(part)).await;
        sent.map_err(|_| Forgotten)?.map_err(|_| Forgotten)
    }
}

/// A worker that holds what is needed and does not answer.
#[must_use]
pub fn unreachable(worker: &WorkerId, what: &str) -> Error {
    Error::new(ErrorCode::WorkerUnreachable, format!("the worker {worker} {what}"))
        .hint("Try again once it is connected.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::link::{self, Closing};

    fn worker() -> WorkerId {
        "w1".parse().expect("a name")
    }

    #[tokio::test]
    async fn parts_arrive_in_order_and_only_the_worker_asked_answers_and_only_once() {
        let queries = Queries::new(PATIENCE);
        let (link, _commands) = link::open(1);
        let mut asked = queries.open(worker(), link.watch()).expect("room");
        let other = "w2".parse().expect("a name");
        assert_eq!(queries.answer(&other, &asked.id).expect_err("not asked"), Forgotten);
        let answering = queries.answer(&worker(), &asked.id).expect("it waits");
        assert_eq!(queries.answer(&worker(), &asked.id).expect_err("taken"), Forgotten);
        answering.give(1).await.expect("taken");
        answering.give(2).await.expect("taken");
        answering.end().await.expect("taken");
        assert_eq!(asked.next().await.expect("a part"), Some(1));
        link.close(Closing::Overflow);
        assert_eq!(asked.next().await.expect("what came counts"), Some(2));
        assert_eq!(asked.next().await.expect("the end"), None);
        drop(asked);
        assert_eq!(queries.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_link_that_goes_an_answer_that_breaks_off_and_silence_all_end_the_wait() {
        let queries: Queries<u8> = Queries::new(Duration::from_millis(20));
        let (link, _commands) = link::open(1);
        let mut silent = queries.open(worker(), link.watch()).expect("room");
        let mut broken = queries.open(worker(), link.watch()).expect("room");
        drop(queries.answer(&worker(), &broken.id).expect("it waits"));
        for asked in [&mut silent, &mut broken] {
            let error = asked.next().await.expect_err("no answer");
            assert_eq!(error.code, ErrorCode::WorkerUnreachable);
            assert!(error.retryable());
        }
        let patient: Queries<u8> = Queries::new(PATIENCE);
        let mut cut = patient.open(worker(), link.watch()).expect("room");
        drop(link);
        assert_eq!(cut.next().await.expect_err("the link is gone").code, ErrorCode::WorkerUnreachable);
    }

    #[tokio::test]
    async fn a_caller_that_takes_nothing_holds_up_its_own_answer_and_not_for_ever() {
        let queries = Queries::new(Duration::from_millis(20));
        let (link, _commands) = link::open(1);
        let asked = queries.open(worker(), link.watch()).expect("room");
        let answering = queries.answer(&worker(), &asked.id).expect("it waits");
        for part in 0..PARTS {
            answering.give(part).await.expect("room");
        }
        assert_eq!(answering.give(9).await, Err(Forgotten));
        let full: Vec<_> =
            (1..IN_FLIGHT).map(|_| queries.open(worker(), link.watch()).expect("room")).collect();
        let refused = queries.open(worker(), link.watch()).expect_err("full");
        assert_eq!(refused.code, ErrorCode::LimitReached);
        drop(full);
        assert_eq!(queries.in_flight(), 1);
    }
}
