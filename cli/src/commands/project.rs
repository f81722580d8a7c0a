//! `muster project`: what a project is and what its sessions may do, declared at the controller.
//!
//! A policy comes from flags or, whole, from a TOML file. `set` changes what is named and nothing else, and only if nobody
//! else changed the project meanwhile.

mod flags;
mod policy_file;
mod policy_show;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand};
use muster_proto::{
    error::ErrorCode,
    v1::{
        DeclaredProject, GetProjectRequest, ListProjectsRequest, ProjectPolicy, PutProjectRequest,
        RemoveProjectRequest,
    },
};
use serde_json::{Value, json};

use self::flags::Flags;
use crate::{
    args::Remote,
    client::{Client, code_of},
    commands::completion,
    failure::{Exit, Failure},
    output::Output,
    show,
};

/// Arguments of `project`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Declare a project
    Add(Put),
    /// Change what is named of a declared project; with a file, all of it
    Set(Put),
    /// List declared projects
    Ls(List),
    /// Show all of a declared project
    Show(Named),
    /// Take a declared project back: new sessions of it are refused, those that exist go on
    Rm(Named),
}

#[derive(Debug, Args)]
struct Put {
    /// Its name: 1 to 64 of a-z, 0-9, `.`, `_` and `-`
    #[arg(required_unless_present = "file", add = completion::projects())]
    name: Option<String>,
    /// Read the policy from this TOML file (docs/cli.md lists its keys); `-` reads stdin
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    flags: Box<Flags>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct Named {
    /// Its name
    #[arg(add = completion::projects())]
    name: String,
    #[command(flatten)]
    remote: Remote,
}

/// Does it.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    match options.action {
        Action::Add(options) => add(options).await,
        Action::Set(options) => set(options).await,
        Action::Ls(options) => list(options).await,
        Action::Show(options) => show_one(options).await,
        Action::Rm(options) => remove(options).await,
    }
}

/// Says whether a file is a policy.
pub fn validate(file: &Path) -> Result<(), Failure> {
    policy_file::read(file).map(drop)
}

impl Put {
    /// The policy of the file, or an empty one; flags go over it.
    fn whole(&self) -> Result<ProjectPolicy, Failure> {
        let mut policy = match &self.file {
            Some(path) => policy_file::read(path)?,
            None => ProjectPolicy::default(),
        };
        match (&self.name, policy.name.as_str()) {
            (Some(name), "") => policy.name.clone_from(name),
            (Some(name), other) if name != other => {
                return Err(Failure::usage(format!("the file is of project {other:?}, not of {name:?}")));
            }
            (None, "") => {
                return Err(Failure::usage("the project has no name")
                    .hint("say it as NAME, or as `name` in the file"));
            }
            _ => {}
        }
        self.flags.apply(&mut policy)?;
        Ok(policy)
    }
}

async fn add(options: Put) -> Result<Exit, Failure> {
    let policy = options.whole()?;
    let mut client = Client::new(&options.remote)?;
    if let Some(project) = get(&mut client, &policy.name).await? {
        let what = format!("project {} is declared already, at revision {}", policy.name, project.revision);
        return Err(
            Failure::new(Exit::Failed, what).hint(format!("`muster project set {}` changes it", policy.name))
        );
    }
    put(client, &options.remote, policy, 0).await
}

async fn set(options: Put) -> Result<Exit, Failure> {
    let from_file = options.file.is_some();
    if !from_file && options.flags.is_empty() {
        return Err(Failure::usage("nothing to set was named").hint("see `muster project set --help`"));
    }
    let mut policy = options.whole()?;
    let name = policy.name.clone();
    let mut client = Client::new(&options.remote)?;
    let declared = get(&mut client, &name).await?.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("no project {name:?} is declared"))
            .hint(format!("`muster project add {name}` declares it"))
    })?;
    if !from_file {
        policy = declared.policy.unwrap_or_default();
        options.flags.apply(&mut policy)?;
    }
    put(client, &options.remote, policy, declared.revision).await
}

async fn get(client: &mut Client, name: &str) -> Result<Option<DeclaredProject>, Failure> {
    let request = GetProjectRequest { name: name.to_owned() };
    match client.projects.get_project(Client::call(request)).await {
        Ok(response) => present(response.into_inner().project).map(Some),
        Err(status) if code_of(&status) == ErrorCode::ProjectNotFound => Ok(None),
        Err(status) => Err(client.failed(&status)),
    }
}

async fn put(
    mut client: Client,
    remote: &Remote,
    policy: ProjectPolicy,
    if_revision: u64,
) -> Result<Exit, Failure> {
    let output = Output::new(remote.json);
    let request = PutProjectRequest { policy: Some(policy), if_revision };
    let result = client.projects.put_project(Client::call(request)).await;
    let response = client.result(result)?;
    let project = present(response.project)?;
    if output.json {
        let mut document = policy_show::document(&project);
        document["replaced"] = response.replaced.into();
        output.document(&document)?;
    } else {
        let name = show::line(&project.policy.unwrap_or_default().name);
        let what = if response.replaced { "changed" } else { "declared" };
        output.line(&format!("{name}  {what}"))?;
    }
    Ok(Exit::Ok)
}

async fn list(options: List) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let result = client.projects.list_projects(Client::call(ListProjectsRequest {})).await;
    let projects = client.result(result)?.projects;
    if output.json {
        output.document(&projects.iter().map(policy_show::document).collect::<Value>())?;
    } else if projects.is_empty() {
        output.note(
            "no declared projects: workers serve directories of their own; `muster project add` declares one",
        );
    } else {
        output.table(&policy_show::table(&projects, SystemTime::now()))?;
    }
    Ok(Exit::Ok)
}

async fn show_one(options: Named) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let result = client.projects.get_project(Client::call(GetProjectRequest { name: options.name })).await;
    let project = present(client.result(result)?.project)?;
    if output.json {
        output.document(&policy_show::document(&project))?;
    } else {
        output.bytes(policy_show::page(&project).as_bytes())?;
    }
    Ok(Exit::Ok)
}

async fn remove(options: Named) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let request = RemoveProjectRequest { name: options.name.clone() };
    let result = client.projects.remove_project(Client::call(request)).await;
    client.result(result)?;
    if output.json {
        output.document(&json!({ "name": options.name, "removed": true }))?;
    } else {
        output.line(&format!("{}  removed", show::line(&options.name)))?;
    }
    Ok(Exit::Ok)
}

fn present(project: Option<DeclaredProject>) -> Result<DeclaredProject, Failure> {
    project.ok_or_else(|| Failure::new(Exit::Failed, "the controller's reply holds no project"))
}
