//! `muster attention`: every question that waits for somebody, oldest first.

use std::time::SystemTime;

use clap::Args;
use muster_proto::{
    limits, time,
    v1::{ListSessionsRequest, Session, SessionStatus},
};
use serde_json::Value;

use super::status;
use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    json,
    output::{Cell, Output, Table, Tone},
    show,
};

/// Arguments of `attention`.
#[derive(Debug, Args)]
pub struct Options {
    /// Only sessions of this project
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "NAME")]
    project: String,
    #[command(flatten)]
    remote: Remote,
}

/// Lists them: on a terminal each with the commands that answer it.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let mut waiting: Vec<Session> = asking(&mut client, &options.project).await?;
    waiting.sort_by_key(|session| {
        session.attention.as_ref().and_then(|attention| attention.since.as_ref()).map(time::to_system)
    });
    if output.json {
        output.document(&waiting.iter().map(document).collect::<Value>())?;
    } else if waiting.is_empty() {
        output.note("nothing waits for an answer");
    } else if output.terminal {
        for session in &waiting {
            if let Some(attention) = &session.attention {
                let age = show::age(attention.since.as_ref(), SystemTime::now());
                let asked = status::asked(session, attention);
                output.line(&format!("{} waits for {age} and {asked}", session.handle))?;
            }
        }
    } else {
        output.table(&table(&waiting))?;
    }
    Ok(Exit::Ok)
}

/// Every page of those that wait.
async fn asking(client: &mut Client, project: &str) -> Result<Vec<Session>, Failure> {
    let mut sessions: Vec<Session> = Vec::new();
    let mut cursor = String::new();
    loop {
        let request = Client::call(ListSessionsRequest {
            statuses: vec![SessionStatus::NeedsAttention.into()],
            project: project.to_owned(),
            limit: limits::LIST_LIMIT,
            cursor,
            ..ListSessionsRequest::default()
        });
        let result = client.sessions.list_sessions(request).await;
        let page = client.result(result)?;
        sessions.extend(page.sessions.into_iter().filter(|session| session.attention.is_some()));
        if page.next_cursor.is_empty() {
            return Ok(sessions);
        }
        cursor = page.next_cursor;
    }
}

fn document(session: &Session) -> Value {
    let mut document = json::session(session)["attention"].take();
    document["sessionId"] = session.handle.clone().into();
    document["openAttentions"] = session.open_attentions.into();
    document
}

fn table(sessions: &[Session]) -> Table {
    let mut table = Table::new(&["SESSION", "ATTENTION", "REASON", "SINCE", "WHAT"]);
    for session in sessions {
        let Some(attention) = &session.attention else { continue };
        table.row(vec![
            Cell::new(&session.handle).tone(Tone::Asks),
            Cell::new(&attention.attention_id),
            Cell::new(&show::attention_reason(attention.reason())),
            Cell::new(&show::moment(attention.since.as_ref())),
            Cell::new(&show::headline(session)),
        ]);
    }
    table
}
