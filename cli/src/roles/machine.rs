//! What a machine brings into a farm: claude, its projects, its name, and this very program as the shim.
//!
//! Shared by `worker` and `up`.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use muster_worker::{ClaudeConfig, ProjectConfig};
use serde::Deserialize;

use super::list;
use crate::{
    args::{KeyValue, Project},
    failure::{Exit, Failure},
};

/// How to run claude.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Claude {
    /// The claude program [default: `claude` on PATH]
    #[arg(long, env = "MUSTER_CLAUDE", hide_env_values = true, value_name = "PATH")]
    pub claude: Option<PathBuf>,
    /// A variable for claude's otherwise clean environment; repeat for several. Prefer --claude-pass-env for
    /// secrets: other users of the machine can see a command line
    #[arg(long, value_name = "KEY=VALUE")]
    claude_env: Vec<KeyValue>,
    /// A variable of this process that claude gets too; repeat for several. Those that hold its login and
    /// proxies it gets anyway (ANTHROPIC_API_KEY, CLAUDE_CODE_OAUTH_TOKEN, HTTPS_PROXY, ...)
    #[arg(long, value_name = "KEY")]
    claude_pass_env: Vec<String>,
}

impl Claude {
    /// Fills what is not set from `lower`.
    pub fn or(self, lower: Self) -> Self {
        Self {
            claude: self.claude.or(lower.claude),
            claude_env: list(self.claude_env, lower.claude_env),
            claude_pass_env: list(self.claude_pass_env, lower.claude_pass_env),
        }
    }

    /// As the worker wants it.
    pub fn settings(&self, program: PathBuf) -> ClaudeConfig {
        let mut config = ClaudeConfig { program, ..ClaudeConfig::default() };
        config.env.extend(self.claude_env.iter().map(|pair| (pair.key.clone(), pair.value.clone())));
        config.pass_env.extend(self.claude_pass_env.iter().cloned());
        config
    }
}

/// Projects and what is allowed in them.
#[derive(Debug)]
pub struct Projects {
    /// In the order given.
    pub named: Vec<Project>,
    /// Names of those whose repository's own settings count.
    pub trusted: Vec<String>,
    /// Names of those whose sessions may ask for trust mode.
    pub trust_mode: Vec<String>,
    /// Names of those whose sessions' branches may be pushed to the repository's remotes.
    pub push: Vec<String>,
}

impl Projects {
    /// Every project with an absolute path that is a directory; a name stands for one project.
    pub fn check(&self) -> Result<Vec<ProjectConfig>, Failure> {
        let mut names = BTreeSet::new();
        let mut projects = Vec::new();
        for Project { name, path } in &self.named {
            if !names.insert(name.as_str()) {
                return Err(Failure::usage(format!("project {name} is named twice")));
            }
            let absolute = path.canonicalize().map_err(|error| {
                Failure::usage(format!("project {name}: {} cannot be used", path.display())).caused_by(&error)
            })?;
            if !absolute.is_dir() {
                return Err(Failure::usage(format!("project {name}: {} is not a directory", path.display())));
            }
            projects.push(ProjectConfig {
                name: name.clone(),
                path: absolute,
                allow_trust_mode: self.trust_mode.contains(name),
                allow_push: self.push.contains(name),
                trusted: self.trusted.contains(name),
            });
        }
        for (flag, given) in [
            ("trust-project", &self.trusted),
            ("allow-trust-mode", &self.trust_mode),
            ("allow-push", &self.push),
        ] {
            if let Some(unknown) = given.iter().find(|name| !names.contains(name.as_str())) {
                let known: Vec<&str> = names.iter().copied().collect();
                return Err(Failure::usage(format!("{flag} names {unknown:?}, which is no project here"))
                    .hint(format!("the projects are: {}", known.join(", "))));
            }
        }
        Ok(projects)
    }
}

/// The claude program, as an absolute path: the one named, else the first on PATH.
pub fn find_claude(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        let absolute = named.canonicalize().map_err(|error| {
            Failure::usage(format!("claude program {} cannot be used", named.display())).caused_by(&error)
        })?;
        if !is_program(&absolute) {
            return Err(Failure::usage(format!("claude program {} is not executable", named.display())));
        }
        // Not the canonical one: installers replace what a link points to, and the link is what stays.
        return std::path::absolute(named)
            .map_err(|error| Failure::usage("the current directory is gone").caused_by(&error));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("claude"))
        .find(|program| is_program(program))
        .ok_or_else(|| {
            Failure::new(Exit::Failed, "claude is not on PATH: there is nothing to run sessions with").hint(
                "get it with `npm install -g @anthropic-ai/claude-code` and run `claude` once to log in, or \
                 name the program with --claude PATH",
            )
        })
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// This executable, for the shims: they run its `shim`.
pub fn this_program() -> Result<PathBuf, Failure> {
    env::current_exe()
        .map_err(|error| Failure::new(Exit::Failed, "the path of this program is unknown").caused_by(&error))
}

/// The host's name; empty when the system does not tell.
pub fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// The repository that holds `folder`, or the folder itself.
pub fn repository_of(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.join(".git").exists()).unwrap_or(folder)
}

/// A project name from a folder's: what does not fit becomes `-`.
pub fn project_name(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.chars().map(|c| if fits(c) { c } else { '-' }).take(64).collect();
    if name.trim_matches('-').is_empty() { "project".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_must_be_directories_with_one_name_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let project = |name: &str, path: &Path| Project { name: name.into(), path: path.into() };
        let check = |named: Vec<Project>, trusted: &[&str]| {
            let trusted = trusted.iter().map(ToString::to_string).collect();
            Projects { named, trusted, trust_mode: Vec::new(), push: vec!["a".to_owned()] }.check()
        };
        let good = check(vec![project("a", folder.path())], &["a"]).expect("taken");
        assert!(
            good[0].trusted && good[0].allow_push && !good[0].allow_trust_mode && good[0].path.is_absolute()
        );
        assert!(check(vec![project("a", folder.path()), project("a", folder.path())], &[]).is_err());
        assert!(check(vec![project("a", &folder.path().join("absent"))], &[]).is_err());
        let failure = check(vec![project("a", folder.path())], &["b"]).expect_err("refused");
        assert_eq!(failure.hint, "the projects are: a");
    }

    #[test]
    fn a_folder_names_its_project() {
        assert_eq!(project_name(Path::new("/srv/my app")), "my-app");
        assert_eq!(project_name(Path::new("/")), "project");
        assert_eq!(project_name(Path::new("/srv/日本")), "project");
    }
}
