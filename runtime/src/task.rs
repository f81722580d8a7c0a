//! Tasks with a name and an owner. `tokio::spawn` is disallowed elsewhere: an unnamed task that panics is silent.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::task::{JoinError, JoinHandle};
use tracing::Instrument as _;

/// A running task. Dropping it aborts it; see [`Task::detach`].
#[derive(Debug)]
#[must_use = "dropping a task aborts it; call detach() to let it run"]
pub struct Task<T> {
    handle: JoinHandle<T>,
    detached: bool,
}

impl<T> Task<T> {
    /// Lets the task run to its end without an owner.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Aborts it at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.handle.abort();
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.handle).poll(cx)
    }
}

/// Logs a panic that unwinds through it, with the task's name: the payload itself goes to the panic hook.
struct PanicNotice {
    name: &'static str,
}

impl Drop for PanicNotice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "task panicked; what it owned is gone");
        }
    }
}

/// Starts `future` as a task called `name`, within the current span.
#[allow(clippy::disallowed_methods)] // the one place
pub fn spawn<F>(name: &'static str, future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let future = async move {
        let _notice = PanicNotice { name };
        future.await
    };
    Task { handle: tokio::spawn(future.in_current_span()), detached: false }
}

/// Runs blocking work on a thread of the blocking pool. It cannot be aborted once it runs.
pub fn spawn_blocking<F, T>(name: &'static str, work: F) -> Task<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let span = tracing::Span::current();
    let handle = tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        let _notice = PanicNotice { name };
        work()
    });
    Task { handle, detached: false }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn dropping_aborts_and_detaching_does_not() {
        let (aborted_tx, aborted_rx) = oneshot::channel::<()>();
        drop(spawn("waits for ever", async move {
            std::future::pending::<()>().await;
            drop(aborted_tx);
        }));
        assert!(aborted_rx.await.is_err(), "the sender went with the task");

        let (done_tx, done_rx) = oneshot::channel();
        spawn("sends", async move { done_tx.send(7) }).detach();
        assert_eq!(done_rx.await, Ok(7));
        assert_eq!(spawn("returns", async { 3 }).await.expect("it ran"), 3);
        assert_eq!(spawn_blocking("blocks", || 4).await.expect("it ran"), 4);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_who_awaits() {
        let result = spawn("panics", async { panic!("on purpose") }).await;
        assert!(result.expect_err("it panicked").is_panic());
    }
}
