//! Keeping a worker from sessions, and letting it have them again.

use std::time::Duration;

use muster_proto::{
    error::{Error, ErrorCode},
    ids::WorkerId,
    v1::MaintenanceMode,
};
use prost_types::Timestamp;
use tracing::{info, warn};

use super::{Reply, input, run::Engine, stage::Stage};
use crate::fleet::maintenance::Maintenance;

/// What an operator wants of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// No new session.
    Cordon {
        /// For people.
        reason: String,
    },
    /// No new session, and an end of those that run.
    Drain {
        /// For people.
        reason: String,
        /// After it turns are interrupted; none: never.
        deadline: Option<Duration>,
    },
    /// Sessions again.
    Uncordon,
}

/// Somebody who waits for a worker to be empty.
pub(super) type Waiter = (WorkerId, Reply<()>);

impl Engine {
    /// Notes what is wanted.
    pub(super) fn maintain(
        &mut self,
        worker: &WorkerId,
        order: Order,
        stage: &mut Stage,
    ) -> Result<(), Error> {
        if !self.book.knows_worker(worker) && !self.fleet.knows(worker) {
            let error = Error::new(ErrorCode::WorkerNotFound, format!("no worker {worker} was ever seen"));
            return Err(
                Error { field: "worker".to_owned(), ..error }.hint("List the workers to find its name.")
            );
        }
        info!(worker.id = %worker, order = ?order, "maintenance");
        let wanted = match order {
            Order::Cordon { reason } => Some(Maintenance::new(MaintenanceMode::Cordoned, reason, None)),
            Order::Drain { reason, deadline } => {
                let deadline = deadline.map(after);
                Some(Maintenance::new(MaintenanceMode::Draining, reason, deadline))
            }
            Order::Uncordon => None,
        };
        if wanted.is_some() || stage.maintenance_of(&self.book, worker).is_some() {
            stage.maintain(worker.clone(), wanted);
        }
        self.plan_due = true;
        Ok(())
    }

    /// Interrupts what still runs on workers whose drain is past its deadline.
    pub(super) fn interrupt_drained(&self, stage: &mut Stage) {
        let now = muster_proto::time::now();
        let due = self.book.maintenance().iter().filter(|(_, maintenance)| maintenance.is_due(now));
        for (worker, maintenance) in due {
            let running = stage.active_on(&self.book, worker);
            warn!(worker.id = %worker, sessions = running.len(),
                "a drain is past its deadline; turns are interrupted");
            for id in running {
                let Some(mut session) = stage.copy(&self.book, id) else { continue };
                // One with no room for an input has dozens waiting and is not made to wait for one more.
                if let Err(error) = input::interrupt(&mut session, stage) {
                    warn!(session.id = %id, error = %error, "a turn could not be interrupted");
                }
                stage.put(session);
            }
            let mut done = maintenance.clone();
            done.interrupted = true;
            stage.maintain(worker.clone(), Some(done));
        }
    }

    /// Answers those who wait for a worker that is empty by now.
    pub(super) fn tell_empty(&mut self) {
        let waiting = std::mem::take(&mut self.waiting_for_empty);
        for (worker, reply) in waiting {
            if self.book.active_count(&worker) == 0 {
                // Whoever waited may have gone away.
                let _ = reply.send(Ok(()));
            } else if !reply.is_closed() {
                self.waiting_for_empty.push((worker, reply));
            }
        }
    }
}

fn after(wait: Duration) -> Timestamp {
    let now = muster_proto::time::now();
    Timestamp { seconds: now.seconds.saturating_add_unsigned(wait.as_secs()), nanos: now.nanos }
}
