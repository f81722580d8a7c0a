//! `muster wait`: returns when sessions have ended or need attention, and says so by its exit code.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use clap::Args;
use muster_proto::v1::{Session, SessionStatus};
use serde_json::json;

use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    json,
    output::Output,
    session_table,
    watch::Watch,
};

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handles, ids or beginnings of them
    #[arg(required = true, value_name = "SESSION", add = super::completion::sessions())]
    sessions: Vec<String>,
    /// Return at the first that ends; without it, when all have
    #[arg(long)]
    any: bool,
    /// Give up after this long, with exit code 124
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// Waits. A session that needs attention ends the wait at once: it does not go on by itself.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let mut watch = Watch::new(client, options.sessions.clone());
    let mut seen: BTreeMap<String, Session> = BTreeMap::new();
    let waiting = async {
        loop {
            let update = watch.next().await?;
            seen.extend(update.sessions.into_iter().map(|session| (session.session_id.clone(), session)));
            if let Some(exit) = verdict(seen.values(), options.any) {
                return Ok::<Exit, Failure>(exit);
            }
        }
    };
    // A century is for ever, and does not overflow a clock.
    let limit = options.timeout.map_or(Duration::from_secs(100 * 365 * 86_400), Duration::from_secs);
    let exit = tokio::time::timeout(limit, waiting).await.unwrap_or(Ok(Exit::TimedOut))?;
    let sessions: Vec<Session> = seen.into_values().collect();
    if output.json {
        output.document(&json!({
            "timedOut": exit == Exit::TimedOut,
            "sessions": json::sessions(&sessions),
        }))?;
    } else {
        output.table(&session_table::table(&sessions, SystemTime::now()))?;
    }
    Ok(exit)
}

/// How the wait ends, if it does. What asks for somebody goes before what failed: it can still be helped.
fn verdict<'a>(sessions: impl Iterator<Item = &'a Session> + Clone, any: bool) -> Option<Exit> {
    let ended = |session: &&Session| {
        session.archived
            || matches!(
                session.status(),
                SessionStatus::Completed | SessionStatus::Failed | SessionStatus::Stopped
            )
    };
    let asks = |session: &Session| session.status() == SessionStatus::NeedsAttention && !session.stopping;
    if sessions.clone().any(asks) {
        return Some(Exit::NeedsAttention);
    }
    let done =
        if any { sessions.clone().any(|it| ended(&it)) } else { sessions.clone().all(|it| ended(&it)) };
    let bad = |session: &Session| matches!(session.status(), SessionStatus::Failed | SessionStatus::Stopped);
    done.then(|| if sessions.filter(ended).any(bad) { Exit::SessionFailed } else { Exit::Ok })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_status(statuses: &[SessionStatus]) -> Vec<Session> {
        let session = |status: &SessionStatus| Session { status: (*status).into(), ..Default::default() };
        statuses.iter().map(session).collect()
    }

    #[test]
    fn the_verdict_is_what_the_exit_codes_promise() {
        use SessionStatus::{Completed, Failed, NeedsAttention, Stopped, Unreachable, Working};
        for (statuses, any, expected) in [
            (&[Working, Completed][..], false, None),
            (&[Working, Completed], true, Some(Exit::Ok)),
            (&[Completed, Completed], false, Some(Exit::Ok)),
            (&[Completed, Failed], false, Some(Exit::SessionFailed)),
            (&[Stopped], false, Some(Exit::SessionFailed)),
            (&[Working, Failed], true, Some(Exit::SessionFailed)),
            (&[Working, NeedsAttention], false, Some(Exit::NeedsAttention)),
            (&[Failed, NeedsAttention], true, Some(Exit::NeedsAttention)),
            (&[Unreachable], false, None),
        ] {
            assert_eq!(verdict(in_status(statuses).iter(), any), expected, "{statuses:?} any={any}");
        }
    }

    #[test]
    fn a_question_of_a_session_that_is_being_stopped_wakes_nobody() {
        let mut sessions = in_status(&[SessionStatus::NeedsAttention]);
        sessions[0].stopping = true;
        assert_eq!(verdict(sessions.iter(), false), None);
    }
}
