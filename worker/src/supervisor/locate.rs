//! Finds out what became of an attempt's shim, from its directory alone.

use std::time::Duration;

use muster_runtime::task;

use super::leftovers;
use crate::shim::{
    client::{self, ShimLink},
    files::{AttemptDir, Exit},
};

/// Between tries to reach a shim that lives: it is starting or leaving.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Tries before a shim that lives and does not answer is given up.
const TRIES: u32 = 500;

/// What there is.
#[derive(Debug)]
pub(super) enum Found {
    /// It lives and answers.
    Link(ShimLink),
    /// It wrote down how it ended.
    Exited(Exit),
    /// It began and is gone without a word. Nothing of the session runs any more.
    Lost,
    /// It never began.
    Never,
}

pub(super) async fn locate(dir: &AttemptDir, session: &str) -> Found {
    for _ in 0..TRIES {
        let lives = dir.shim_lives().unwrap_or(false);
        match dir.read_exit() {
            // While it lives it may still be telling its clients; the file is final all the same.
            Ok(Some(exit)) => return Found::Exited(exit),
            Ok(None) if !lives && dir.was_started() => break,
            Ok(None) if !lives => return Found::Never,
            Ok(None) => match client::connect(dir).await {
                Ok(link) => return Found::Link(link),
                Err(error) => tracing::debug!(error = %error, "a shim lives and does not answer yet"),
            },
            Err(error) => tracing::warn!(error = %error, "exit.json cannot be read, trying again"),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    let (session, dir) = (session.to_owned(), dir.clone());
    let killed = task::spawn_blocking("kill leftovers", move || {
        leftovers::kill_group(&dir) + leftovers::kill_session(&session)
    });
    match killed.await {
        Ok(0) | Err(_) => {}
        Ok(count) => tracing::warn!(count, "processes of a lost session cannot be killed"),
    }
    Found::Lost
}
