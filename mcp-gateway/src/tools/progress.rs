//! Progress notifications of a call that takes long.
//!
//! They keep clients from giving up, so the first goes out at once. Invariant: a client that does not read
//! them never holds up the call: at most one is on its way, and a tick is skipped while it is.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use rmcp::{
    RoleServer,
    model::{ProgressNotificationParam, ProgressToken},
    service::Peer,
};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Clients show about this much.
const MESSAGE_CHARS: usize = 200;

/// Where progress goes.
#[derive(Clone)]
pub(crate) struct Progress {
    peer: Peer<RoleServer>,
    token: ProgressToken,
    every: Duration,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Progress {
    pub(crate) fn new(peer: Peer<RoleServer>, token: ProgressToken, every: Duration) -> Self {
        Self { peer, token, every: every.max(Duration::from_millis(10)) }
    }
}

/// Sends progress at intervals while something else is awaited beside it.
pub(crate) struct Reporter {
    progress: Option<Progress>,
    ticks: Interval,
    /// Strictly grows, as the protocol asks.
    sent: u32,
    on_its_way: Option<BoxFuture<'static, ()>>,
}

impl Reporter {
    pub(crate) fn new(progress: Option<Progress>) -> Self {
        let every = progress.as_ref().map_or(Duration::from_secs(3600), |progress| progress.every);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { progress, ticks, sent: 0, on_its_way: None }
    }

    /// Returns when the next message is due. Safe to drop at any time.
    pub(crate) async fn due(&mut self) {
        loop {
            if let Some(sending) = &mut self.on_its_way {
                sending.await;
                self.on_its_way = None;
                continue;
            }
            if self.progress.is_none() {
                std::future::pending::<()>().await;
            }
            self.ticks.tick().await;
            return;
        }
    }

    /// Begins to send; goes out while [`Reporter::due`] is awaited.
    pub(crate) fn report(&mut self, message: &str) {
        let Some(progress) = &self.progress else { return };
        self.sent += 1;
        let message: String = message.chars().take(MESSAGE_CHARS).collect();
        let notification = ProgressNotificationParam::new(progress.token.clone(), f64::from(self.sent))
            .with_message(message);
        let peer = progress.peer.clone();
        self.on_its_way = Some(
            async move {
                if let Err(error) = peer.notify_progress(notification).await {
                    tracing::debug!(error = %error, "progress did not reach the client");
                }
            }
            .boxed(),
        );
    }
}
