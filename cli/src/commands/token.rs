//! `muster token`: who may call the controller, and as what.

use std::time::SystemTime;

use clap::{Args, Subcommand, ValueEnum};
use muster_proto::v1::{
    Access, CreateAccessRequest, ListAccessRequest, RevokeAccessRequest, Role, WhoAmIRequest,
};
use serde_json::{Value, json};

use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    output::{Cell, Output, Table, Tone},
    show,
    span::Span,
};

/// Arguments of `token`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an access token and print it; it is shown this once
    Create(Create),
    /// List access tokens, without their secrets
    Ls(List),
    /// Take an access token back; its open calls end
    Revoke(Revoke),
}

#[derive(Debug, Args)]
struct Create {
    /// Who will use it; what they spawn is theirs
    name: String,
    /// What it allows (docs/roles.md)
    #[arg(long, value_name = "ROLE")]
    role: Allowed,
    /// A project it reaches; repeat for several [default: all]
    #[arg(long, value_name = "NAME")]
    project: Vec<String>,
    /// How long it holds, e.g. 8h or 90d, at most 366d
    #[arg(long, default_value = "30d", value_name = "TIME")]
    ttl: Span,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct Revoke {
    /// Its id, from `muster token ls`
    id: String,
    #[command(flatten)]
    remote: Remote,
}

/// Arguments of `whoami`.
#[derive(Debug, Args)]
pub struct WhoAmI {
    #[command(flatten)]
    remote: Remote,
}

/// The roles a token can give.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Allowed {
    /// Sees sessions
    Viewer,
    /// Sees, spawns, answers and stops sessions
    Operator,
    /// Spawns sessions, and sees and steers its own: for gateways
    Orchestrator,
    /// Everything
    Admin,
}

impl Allowed {
    const fn role(self) -> Role {
        match self {
            Self::Viewer => Role::Viewer,
            Self::Operator => Role::Operator,
            Self::Orchestrator => Role::Orchestrator,
            Self::Admin => Role::Admin,
        }
    }
}

/// Does it.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    match options.action {
        Action::Create(options) => create(options).await,
        Action::Ls(options) => list(options).await,
        Action::Revoke(options) => revoke(options).await,
    }
}

async fn create(options: Create) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let request = CreateAccessRequest {
        name: options.name,
        role: options.role.role().into(),
        projects: options.project,
        ttl_seconds: options.ttl.seconds(),
        ..CreateAccessRequest::default()
    };
    let result = client.identity.create_access(Client::call(request)).await;
    let created = client.result(result)?;
    let info = created.info.unwrap_or_default();
    if output.json {
        let mut document = access(&info);
        document["token"] = created.token.into();
        output.document(&document)?;
    } else {
        output.line(&created.token)?;
        output.note("this is the only time it is shown; callers give it in MUSTER_TOKEN");
    }
    Ok(Exit::Ok)
}

async fn list(options: List) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let result = client.identity.list_access(Client::call(ListAccessRequest {})).await;
    let tokens = client.result(result)?.access;
    if output.json {
        output.document(&tokens.iter().map(access).collect::<Value>())?;
    } else if tokens.is_empty() {
        output.note("no access tokens: whoever is on the controller's machine is an admin");
    } else {
        output.table(&table(&tokens, SystemTime::now()))?;
    }
    Ok(Exit::Ok)
}

async fn revoke(options: Revoke) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let request = RevokeAccessRequest { id: options.id.clone() };
    let result = client.identity.revoke_access(Client::call(request)).await;
    client.result(result)?;
    if output.json {
        output.document(&json!({ "id": options.id, "revoked": true }))?;
    } else {
        output.line(&format!("{}  revoked", show::line(&options.id)))?;
    }
    Ok(Exit::Ok)
}

/// Says whom the controller takes the caller for.
pub async fn whoami(options: WhoAmI) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let result = client.identity.who_am_i(Client::call(WhoAmIRequest {})).await;
    let me = client.result(result)?;
    let role = show::role(me.role());
    if output.json {
        output.document(&json!({
            "name": me.name,
            "role": role,
            "projects": me.projects,
            "expiresAt": me.expires_at.as_ref().map(ToString::to_string),
        }))?;
    } else {
        let projects = if me.projects.is_empty() { "all projects".to_owned() } else { me.projects.join(" ") };
        output.line(&format!("{}  {role}  {}", show::line(&me.name), show::line(&projects)))?;
    }
    Ok(Exit::Ok)
}

fn table(tokens: &[Access], now: SystemTime) -> Table {
    let mut table = Table::new(&["ID", "NAME", "ROLE", "CREATED", "EXPIRES", "STATE", "PROJECTS"]);
    for token in tokens {
        let (state, tone) = match token.revoked {
            true => ("revoked", Tone::Faint),
            false => ("valid", Tone::Good),
        };
        table.row(vec![
            Cell::new(&token.id),
            Cell::new(&token.name),
            Cell::new(&show::role(token.role())),
            Cell::new(&show::age(token.created_at.as_ref(), now))
                .plain(&show::moment(token.created_at.as_ref())),
            Cell::new(&show::second(token.expires_at.as_ref()))
                .plain(&show::moment(token.expires_at.as_ref())),
            Cell::new(state).tone(tone),
            Cell::new(&token.projects.join(" ")),
        ]);
    }
    table
}

fn access(access: &Access) -> Value {
    json!({
        "id": access.id,
        "name": access.name,
        "role": show::role(access.role()),
        "projects": access.projects,
        "createdAt": access.created_at.as_ref().map(ToString::to_string),
        "expiresAt": access.expires_at.as_ref().map(ToString::to_string),
        "revoked": access.revoked,
    })
}
