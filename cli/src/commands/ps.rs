//! `muster ps`: what there is, and with `--watch` what changes.

use std::{str::FromStr, time::SystemTime};

use clap::Args;
use muster_proto::{
    limits,
    v1::{ListSessionsRequest, Session, SessionStatus},
};

use crate::{
    args::{KeyValue, Remote},
    client::Client,
    failure::{Exit, Failure},
    json, live,
    output::Output,
    session_table, show,
};

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub struct Options {
    /// Archived sessions too
    #[arg(short, long)]
    all: bool,
    /// Only sessions in this status; repeat for several
    #[arg(short, long = "status", value_name = "STATUS")]
    statuses: Vec<Status>,
    /// Only sessions of this project
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "NAME")]
    project: String,
    /// Only sessions with this label; repeat for several, all must match
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<KeyValue>,
    /// Stay and show every change
    #[arg(short, long, conflicts_with = "all")]
    watch: bool,
    #[command(flatten)]
    remote: Remote,
}

/// A status by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status(SessionStatus);

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let full = format!("SESSION_STATUS_{}", text.to_ascii_uppercase().replace('-', "_"));
        SessionStatus::from_str_name(&full)
            .filter(|status| *status != SessionStatus::Unspecified)
            .map(Self)
            .ok_or_else(|| {
                let known: Vec<String> = (1..)
                    .map_while(|number| SessionStatus::try_from(number).ok())
                    .map(show::status)
                    .collect();
                format!("a session is one of: {}", known.join(", "))
            })
    }
}

/// Lists sessions.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    if options.watch {
        return live::watch(client, output, move |session| options.matches(session)).await;
    }
    let sessions = options.list(&mut client).await?;
    if output.json {
        output.document(&json::sessions(&sessions))?;
    } else if sessions.is_empty() {
        output.note("no sessions");
    } else {
        output.table(&session_table::table(&sessions, SystemTime::now()))?;
    }
    Ok(Exit::Ok)
}

impl Options {
    /// Every page. A session that changes its rank while we read may come twice: the first one counts.
    async fn list(&self, client: &mut Client) -> Result<Vec<Session>, Failure> {
        let mut sessions: Vec<Session> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut cursor = String::new();
        loop {
            let request = Client::call(ListSessionsRequest {
                statuses: self.statuses.iter().map(|status| status.0.into()).collect(),
                project: self.project.clone(),
                labels: self.labels.iter().map(|it| (it.key.clone(), it.value.clone())).collect(),
                include_archived: self.all,
                limit: limits::LIST_LIMIT,
                cursor,
            });
            let result = client.sessions.list_sessions(request).await;
            let page = client.result(result)?;
            sessions.extend(page.sessions.into_iter().filter(|it| seen.insert(it.session_id.clone())));
            if page.next_cursor.is_empty() {
                return Ok(sessions);
            }
            cursor = page.next_cursor;
        }
    }

    fn matches(&self, session: &Session) -> bool {
        let spec = session.spec.as_ref();
        (self.statuses.is_empty() || self.statuses.iter().any(|status| status.0 == session.status()))
            && (self.project.is_empty() || spec.is_some_and(|spec| spec.project == self.project))
            && self.labels.iter().all(|label| {
                spec.and_then(|spec| spec.labels.get(&label.key)).is_some_and(|value| *value == label.value)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_taken_by_its_name_and_refused_with_all_of_them() {
        assert_eq!("needs-attention".parse(), Ok(Status(SessionStatus::NeedsAttention)));
        assert_eq!("working".parse(), Ok(Status(SessionStatus::Working)));
        let refused = "busy".parse::<Status>().expect_err("refused");
        assert!(refused.contains("queued") && refused.contains("unreachable"), "{refused}");
        assert!("unspecified".parse::<Status>().is_err());
    }
}
