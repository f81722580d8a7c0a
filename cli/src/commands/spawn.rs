//! `muster spawn`: queues a session, with the same parameters as the tool.

use clap::Args;
use muster_proto::v1::{SessionSpec, SpawnSessionRequest};

use crate::{
    args::{KeyValue, Remote},
    client::{Client, present},
    commands::text_or_stdin,
    failure::{Exit, Failure},
    json,
    output::Output,
    show,
};

/// Arguments of `spawn`.
#[derive(Debug, Args)]
pub struct Options {
    /// What claude is to do; words are joined by spaces, `-` reads stdin
    #[arg(required = true, value_name = "PROMPT")]
    prompt: Vec<String>,
    /// Project to work in [default: the only one there is]
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "NAME")]
    project: String,
    /// Work in a git worktree of its own [default: in a git repository]
    #[arg(long, overrides_with = "no_worktree")]
    worktree: bool,
    /// Work in the project's directory itself
    #[arg(long)]
    no_worktree: bool,
    /// Ask for no permissions; the project must allow it. Questions and plans still ask
    #[arg(long)]
    trust_mode: bool,
    /// Model, as claude knows it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    model: String,
    /// Name of the session's branch [default: muster/HANDLE]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    branch_name: String,
    /// What the branch starts from [default: HEAD of the project]
    #[arg(long = "ref", default_value = "", hide_default_value = true, value_name = "REF")]
    start: String,
    /// claude's permission mode: default, acceptEdits, plan or dontAsk
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MODE")]
    permission_mode: String,
    /// A tool that needs no permission, e.g. `Bash(git log:*)`; repeat for several
    #[arg(long = "allowed-tool", value_name = "RULE")]
    allowed_tools: Vec<String>,
    /// End the session after this long
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "MINUTES")]
    timeout_minutes: u32,
    /// End a turn after this many steps of the model
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    max_turns: u32,
    /// The higher goes first, -10 to 10; waiting adds to it
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "N",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(i32).range(-10..=10))]
    priority: i32,
    /// End a turn that has cost this much
    #[arg(long, default_value_t = 0.0, hide_default_value = true, value_name = "DOLLARS")]
    max_budget_usd: f64,
    /// A title for people [default: the beginning of the prompt]
    #[arg(long, default_value = "", hide_default_value = true)]
    title: String,
    /// A label of the session; repeat for several
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<KeyValue>,
    /// A label the worker must carry; repeat for several
    #[arg(long = "on", value_name = "KEY=VALUE")]
    required_labels: Vec<KeyValue>,
    /// Session that this one belongs to
    #[arg(long, default_value = "", hide_default_value = true, value_name = "SESSION")]
    parent_session: String,
    /// The same id again returns the same session and starts no second one
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    request_id: String,
    #[command(flatten)]
    remote: Remote,
}

/// Queues a session.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let request_id = options.request_id.clone();
    let request = SpawnSessionRequest { spec: Some(options.spec()?), request_id };
    let result = client.sessions.spawn_session(Client::call(request)).await;
    let response = client.result(result)?;
    let session = present(response.session)?;
    if output.json {
        let mut document = json::session(&session);
        document["replayed"] = response.replayed.into();
        output.document(&document)?;
    } else if output.terminal {
        let handle = &session.handle;
        let again = if response.replayed { " (spawned before)" } else { "" };
        output.line(&format!("{handle}  {}{again}", show::status(session.status())))?;
        output.note(&format!("follow it with `muster logs -f {handle}`, wait with `muster wait {handle}`"));
    } else {
        output.line(&session.handle)?;
    }
    Ok(Exit::Ok)
}

impl Options {
    fn spec(self) -> Result<SessionSpec, Failure> {
        let pairs = |pairs: Vec<KeyValue>| pairs.into_iter().map(|pair| (pair.key, pair.value)).collect();
        Ok(SessionSpec {
            prompt: text_or_stdin(&self.prompt.join(" "))?,
            project: self.project,
            worktree: match (self.worktree, self.no_worktree) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
            trust_mode: self.trust_mode,
            model: self.model,
            branch_name: self.branch_name,
            r#ref: self.start,
            permission_mode: self.permission_mode,
            allowed_tools: self.allowed_tools,
            timeout_minutes: self.timeout_minutes,
            max_turns: self.max_turns,
            priority: self.priority,
            max_budget_usd: self.max_budget_usd,
            title: self.title,
            labels: pairs(self.labels),
            parent_session: self.parent_session,
            required_labels: pairs(self.required_labels),
        })
    }
}
