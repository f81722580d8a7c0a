//! What an operator decides about a worker.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use muster_proto::ids::WorkerId;

/// A worker's configuration. The same `name` and `state_dir` over restarts: sessions are found again by them.
#[derive(Debug, Clone)]
pub struct Config {
    /// How the controller is reached.
    pub controller: Controller,
    /// Stable over restarts and unique in the farm.
    pub name: WorkerId,
    /// Where sessions, spools and worktrees are kept; see [`crate::local_state`].
    pub state_dir: PathBuf,
    /// Sessions that may run side by side, 1 to 1000.
    pub slots: u32,
    /// What the scheduler may ask for.
    pub labels: BTreeMap<String, String>,
    /// What sessions may work in.
    pub projects: Vec<ProjectConfig>,
    /// Sessions of projects that are declared at the controller.
    pub declared: DeclaredConfig,
    /// What a session is expected to take of the machine.
    pub needs: Needs,
    /// How claude is run.
    pub claude: ClaudeConfig,
    /// Program run as `<shim_program> shim <dir>`.
    pub shim_program: PathBuf,
    /// How long everything may take.
    pub timing: Timing,
}

/// How the controller is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Controller {
    /// Without TLS, on this machine: a URL, e.g. `http://127.0.0.1:7420`.
    Local(String),
    /// Over TLS, as the worker this machine became when it joined ([`crate::join`]): the address, the certificate and
    /// what is believed are in the state folder.
    Joined,
}

impl From<String> for Controller {
    fn from(url: String) -> Self {
        Self::Local(url)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(url) => f.write_str(url),
            Self::Joined => f.write_str("the farm this machine joined"),
        }
    }
}

/// Sessions of projects that this worker does not announce itself: they are declared at the controller, with the URL of a
/// repository, and the worker keeps a mirror of it. What a policy allows counts only as far as it is allowed here too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredConfig {
    /// Whether such sessions are taken.
    pub serve: bool,
    /// Whether they may skip permission prompts where their policy lets them.
    pub allow_trust_mode: bool,
    /// Whether the repository's own settings, hooks and MCP servers are used where the policy trusts it.
    pub trusted: bool,
    /// Whether their branches may be pushed where the policy allows it.
    pub allow_push: bool,
    /// Whether `file` URLs are taken. `None`: only from a controller on the same machine.
    pub file_urls: Option<bool>,
    /// A git configuration file for what talks to a project's remote, instead of the user's own: credential helpers, proxies.
    pub git_config: Option<PathBuf>,
    /// A mirror that was fetched a shorter time ago is not fetched again, unless it misses what is asked for.
    pub refresh_after: Duration,
    /// Longest a fetch may take.
    pub fetch_limit: Duration,
    /// Most bytes of one mirror; a fetch that needs more is ended.
    pub mirror_limit_bytes: u64,
    /// A mirror no session used for this long is removed when the disk has less than `disk_wanted_bytes` free.
    pub keep_unused: Duration,
    /// See `keep_unused`. 0: mirrors are never removed.
    pub disk_wanted_bytes: u64,
}

impl Default for DeclaredConfig {
    fn default() -> Self {
        Self {
            serve: true,
            allow_trust_mode: false,
            trusted: false,
            allow_push: false,
            file_urls: None,
            git_config: None,
            refresh_after: Duration::from_secs(60),
            fetch_limit: Duration::from_secs(15 * 60),
            mirror_limit_bytes: 20 << 30,
            keep_unused: Duration::from_secs(7 * 24 * 60 * 60),
            disk_wanted_bytes: 10 << 30,
        }
    }
}

/// What a session is expected to take of the machine; the controller places accordingly. 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Memory of a session.
    pub memory_bytes: u64,
    /// With less disk free no session is placed here.
    pub disk_reserve_bytes: u64,
    /// Sessions that may be starting at the same time.
    pub starts_at_once: u32,
}

/// A name for a directory on this worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectConfig {
    /// What callers say.
    pub name: String,
    /// Absolute.
    pub path: PathBuf,
    /// Whether sessions may skip permission prompts here.
    pub allow_trust_mode: bool,
    /// Whether the repository's own settings, hooks, MCP servers and CLAUDE.md are used. They run without being asked.
    pub trusted: bool,
    /// Whether sessions' branches may be pushed to its remotes, with the operator's credentials. Off unless said.
    pub allow_push: bool,
}

/// How claude is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaudeConfig {
    /// A path, or a name looked up on PATH.
    pub program: PathBuf,
    /// Variables set for every claude, over everything else.
    pub env: BTreeMap<String, String>,
    /// Variables of the worker that every claude gets, when they are set.
    pub pass_env: Vec<String>,
    /// Output of one session kept on this worker, in bytes; a session that reaches it ends with OUTPUT_LIMIT.
    pub output_limit_bytes: u64,
}

impl Default for ClaudeConfig {
    fn default() -> Self {
        let pass_env = [
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "ANTHROPIC_BASE_URL",
            "ANTHROPIC_MODEL",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "CLAUDE_CONFIG_DIR",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
        ];
        Self {
            program: PathBuf::from("claude"),
            env: BTreeMap::new(),
            pass_env: pass_env.map(ToOwned::to_owned).to_vec(),
            output_limit_bytes: 1 << 30,
        }
    }
}

/// How long everything may take. The defaults follow what was measured on claude; tests shrink them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Stop: from the interrupt to closing stdin. claude answers an interrupt within 10 ms.
    pub interrupt_grace: Duration,
    /// Stop: from closing stdin to SIGTERM.
    pub close_grace: Duration,
    /// From SIGTERM to SIGKILL of the whole tree. A tool that handles SIGTERM needs some of it.
    pub term_grace: Duration,
    /// After the last turn: from closing stdin to SIGTERM. claude gives background tasks 5 s of it.
    pub exit_grace: Duration,
    /// From SIGKILL to giving the shim up for lost. The shim itself kills for 5 s.
    pub kill_grace: Duration,
    /// No event while a turn runs and no tool does: the session is hung. A stalled API stream is silent for 5 minutes.
    pub silence: Duration,
    /// After idle without a sign that claude took the last message: how long to wait for the turn it starts.
    pub settle: Duration,
    /// First and longest wait between attempts to reach the controller.
    pub reconnect_first: Duration,
    /// See `reconnect_first`.
    pub reconnect_max: Duration,
    /// Between attempts while the controller says that another process shows the identity of this worker.
    pub duplicate_retry: Duration,
    /// Between comparisons of the disk with the sessions there are; the first is at start. What nobody has is removed.
    pub reap_every: Duration,
    /// How long a released session's own folder (its record and transcripts; its output is with the controller by then)
    /// stays. What it changed is kept in refs of the repository, whatever this says.
    pub keep_ended: Duration,
    /// How long what a fenced attempt left (its output and inputs) is kept aside, for people. At most 32 of them are.
    pub keep_fenced: Duration,
    /// How long an ended session that nobody archived keeps its workspace; then it is released as if archived.
    /// `None`: for ever.
    pub keep_workspace: Option<Duration>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interrupt_grace: Duration::from_secs(2),
            close_grace: Duration::from_secs(3),
            term_grace: Duration::from_secs(5),
            exit_grace: Duration::from_secs(10),
            kill_grace: Duration::from_secs(15),
            silence: Duration::from_secs(11 * 60),
            settle: Duration::from_secs(2),
            reconnect_first: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
            duplicate_retry: Duration::from_secs(60),
            reap_every: Duration::from_secs(60 * 60),
            keep_ended: Duration::from_secs(30 * 24 * 60 * 60),
            keep_fenced: Duration::from_secs(7 * 24 * 60 * 60),
            keep_workspace: None,
        }
    }
}

/// A configuration nobody can run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// `slots`.
    #[error("slots is {0}; it must be 1 to 1000")]
    Slots(u32),
    /// A project's path.
    #[error("project {0}: {1} is not a directory")]
    ProjectPath(String, PathBuf),
    /// Two projects of one name.
    #[error("project {0} is declared twice")]
    ProjectTwice(String),
    /// A project without a name.
    #[error("a project needs a name")]
    ProjectName,
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`ConfigError`], the first found.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=1000).contains(&self.slots) {
            return Err(ConfigError::Slots(self.slots));
        }
        for (index, project) in self.projects.iter().enumerate() {
            if project.name.is_empty() {
                return Err(ConfigError::ProjectName);
            }
            if self.projects[..index].iter().any(|other| other.name == project.name) {
                return Err(ConfigError::ProjectTwice(project.name.clone()));
            }
            if !project.path.is_absolute() || !Path::new(&project.path).is_dir() {
                return Err(ConfigError::ProjectPath(project.name.clone(), project.path.clone()));
            }
        }
        Ok(())
    }
}
