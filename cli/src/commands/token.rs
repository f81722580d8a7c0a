//! `muster token` and `muster whoami`: which machines may join, who may call, and as what.
//!
//! Two kinds of token go by one verb: join tokens for machines and, with `--role`, access tokens for people and
//! gateways. Their ids never meet.

mod show_tokens;

use std::time::SystemTime;

use clap::{Args, Subcommand, ValueEnum};
use muster_proto::{
    error::ErrorCode,
    v1::{
        CreateAccessRequest, CreateJoinTokenRequest, ListAccessRequest, ListJoinTokensRequest,
        RevokeAccessRequest, RevokeJoinTokenRequest, Role, WhoAmIRequest,
    },
};
use serde_json::json;

use self::show_tokens::{access, join, table};
use crate::{
    args::{KeyValue, Remote},
    client::{Client, code_of},
    failure::{Exit, Failure},
    output::Output,
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
    /// Make a token and print it, this once: for a machine that joins or, with --role, for whoever calls
    Create(Create),
    /// List tokens of both kinds, without their secrets
    Ls(List),
    /// Take a token back. Open calls of an access token end; machines that joined stay
    Revoke(Revoke),
}

#[derive(Debug, Args)]
struct Create {
    /// As --name
    #[arg(hide = true, conflicts_with = "name", requires = "role")]
    who: Option<String>,
    /// Make an access token, which allows this (docs/roles.md), instead of one for a machine
    #[arg(long, value_name = "ROLE")]
    role: Option<Allowed>,
    /// Who will use it: the one worker that may join [default: any], or, with --role, whose sessions are spawned
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How long it holds, e.g. 15m, 8h or 90d [default: 15m, at most 7d; with --role 30d, at most 366d]
    #[arg(long, value_name = "TIME")]
    ttl: Option<Span>,
    /// Machines that may join with it, 1 to 1000 [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "role")]
    uses: Option<u32>,
    /// A label the machine gets, whatever it says of itself; repeat for several
    #[arg(long = "label", value_name = "KEY=VALUE", conflicts_with = "role")]
    labels: Vec<KeyValue>,
    /// A project an access token reaches; repeat for several [default: all]
    #[arg(long, value_name = "NAME", requires = "role")]
    project: Vec<String>,
    /// What an access token is good for: read, write or trust; repeat for several [default: all the role allows]
    #[arg(long, value_name = "SCOPE", requires = "role")]
    scope: Vec<String>,
    /// Only for this session and those below it: for a session that itself runs sessions
    #[arg(long, value_name = "SESSION", requires = "role")]
    session: Option<String>,
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
        Action::Create(options) => match options.role {
            Some(role) => create_access(role, options).await,
            None => create_join(options).await,
        },
        Action::Ls(options) => list(options).await,
        Action::Revoke(options) => revoke(options).await,
    }
}

/// 0 for the controller's own default.
fn ttl(ttl: Option<Span>) -> Result<u32, Failure> {
    match ttl.map(Span::seconds) {
        Some(0) => Err(Failure::usage("--ttl 0 makes a token that never holds")),
        seconds => Ok(seconds.unwrap_or(0)),
    }
}

async fn create_access(role: Allowed, options: Create) -> Result<Exit, Failure> {
    let name = options.name.or(options.who).ok_or_else(|| {
        Failure::usage("an access token needs a name").hint("say who will use it: --name ada")
    })?;
    let request = CreateAccessRequest {
        name,
        role: role.role().into(),
        projects: options.project,
        ttl_seconds: ttl(options.ttl)?,
        scopes: options.scope,
        session: options.session.unwrap_or_default(),
    };
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let result = client.identity.create_access(Client::call(request)).await;
    let created = client.result(result)?;
    if output.json {
        let mut document = access(&created.info.unwrap_or_default());
        document["token"] = created.token.into();
        output.document(&document)?;
    } else {
        output.line(&created.token)?;
        output.note("this is the only time it is shown; callers give it in MUSTER_TOKEN or --token-file");
    }
    Ok(Exit::Ok)
}

async fn create_join(options: Create) -> Result<Exit, Failure> {
    if options.uses == Some(0) {
        return Err(Failure::usage("--uses 0 makes a token nobody can join with"));
    }
    let request = CreateJoinTokenRequest {
        worker: options.name.unwrap_or_default(),
        ttl_seconds: ttl(options.ttl)?,
        uses: options.uses.unwrap_or(0),
        labels: options.labels.into_iter().map(|label| (label.key, label.value)).collect(),
    };
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let result = client.identity.create_join_token(Client::call(request)).await;
    let created = client.result(result).map_err(how_to_get_an_address)?;
    if output.json {
        let mut document = join(&created.info.unwrap_or_default());
        document["token"] = created.token.into();
        output.document(&document)?;
    } else {
        output.line(&created.token)?;
        output.note("this is the only time it is shown; on the other machine: muster worker join TOKEN");
    }
    Ok(Exit::Ok)
}

/// A controller knows no flags: what to type is ours to say.
fn how_to_get_an_address(mut failure: Failure) -> Failure {
    if failure.what.starts_with("no_remote_address") {
        failure.hint =
            "start it with --remote-listen ADDR (`muster up` and `muster controller` take it), then make the token"
                .to_owned();
    }
    failure
}

async fn list(options: List) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let result = client.identity.list_access(Client::call(ListAccessRequest {})).await;
    let people = client.result(result)?.access;
    let result = client.identity.list_join_tokens(Client::call(ListJoinTokensRequest {})).await;
    let machines = client.result(result)?.tokens;
    if output.json {
        output.document(&people.iter().map(access).chain(machines.iter().map(join)).collect())?;
    } else if people.is_empty() && machines.is_empty() {
        output.note(
            "no tokens: whoever is on the controller's machine is an admin, and nobody else is anybody",
        );
    } else {
        output.table(&table(&people, &machines, SystemTime::now()))?;
    }
    Ok(Exit::Ok)
}

async fn revoke(options: Revoke) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let request = RevokeAccessRequest { id: options.id.clone() };
    let revoked = client.identity.revoke_access(Client::call(request)).await.map(drop);
    if revoked.as_ref().is_err_and(|status| code_of(status) == ErrorCode::TokenNotFound) {
        let request = RevokeJoinTokenRequest { id: options.id.clone() };
        let result = client.identity.revoke_join_token(Client::call(request)).await;
        client
            .result(result)
            .map_err(|failure| failure.hint("`muster token ls` shows the ids of all tokens"))?;
    } else if let Err(status) = revoked {
        return Err(client.failed(&status));
    }
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
            "scopes": me.scopes,
            "session": Some(&me.session).filter(|session| !session.is_empty()),
            "onBehalfOf": Some(&me.on_behalf_of).filter(|behalf| !behalf.is_empty()),
            "expiresAt": me.expires_at.as_ref().map(ToString::to_string),
        }))?;
        return Ok(Exit::Ok);
    }
    let mut text = format!("{}  {role}  {}", show::line(&me.name), words(&me.projects, "all projects"));
    for (what, value) in [
        ("only", words(&me.scopes, "")),
        ("for session", show::line(&me.session)),
        ("on behalf of", show::line(&me.on_behalf_of)),
        ("until", show::second(me.expires_at.as_ref())),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("  {what} {value}"));
        }
    }
    output.line(&text)?;
    Ok(Exit::Ok)
}

fn words(words: &[String], none: &str) -> String {
    if words.is_empty() { none.to_owned() } else { show::line(&words.join(" ")) }
}
