//! "The process is leaving", as opposed to "the session must die": the latter never goes through here.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::task;

/// A wish that the process, or a part of it, leaves. Cheap to clone; once requested it stays so.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// One that nobody has requested.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns once the shutdown is requested; at once if it already is.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Requests it. Safe to repeat.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether it is requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// A part that leaves with the whole and can also leave alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }

    /// The token itself, for libraries that take one.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

/// Requests `shutdown` at the first SIGINT or SIGTERM. At the second the process ends at once with 128 + the signal:
/// an operator who asks twice means it, and what matters is on disk before it is acknowledged.
///
/// # Errors
/// When the process cannot take signal handlers.
pub fn on_signals(shutdown: &Shutdown) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = shutdown.clone();
    task::spawn("signals", async move {
        loop {
            let number = tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
                _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
            };
            if shutdown.is_requested() {
                std::process::exit(128 + number);
            }
            tracing::info!(signal = number, "leaving; a second signal ends the process at once");
            shutdown.request();
        }
    })
    .detach();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_leaves_with_the_whole_but_not_the_other_way_round() {
        let whole = Shutdown::new();
        let (left, right) = (whole.child(), whole.child());
        left.request();
        left.requested().await;
        assert!(!whole.is_requested() && !right.is_requested());
        whole.request();
        right.requested().await;
    }
}
