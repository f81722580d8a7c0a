//! A machine for tests: a home, a repository, a state folder, and a worker on it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use muster_proto::v1::StartSession;
use muster_runtime::shutdown::Shutdown;
use muster_worker::{
    ClaudeConfig, Config, DeclaredConfig, Needs, ProjectConfig, Timing, Worker, shim::files::AttemptDir,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Controller, LONG};

pub struct Machine {
    _dir: tempfile::TempDir,
    pub home: PathBuf,
    pub repo: PathBuf,
    pub state: PathBuf,
    pub config: Config,
    shutdown: Shutdown,
    worker: Option<Worker>,
}

/// A test that fails half way must not leave its sessions running.
impl Drop for Machine {
    fn drop(&mut self) {
        self.worker = None;
        let sessions = fs::read_dir(self.state.join("sessions")).into_iter().flatten().flatten();
        for attempt in
            sessions.flat_map(|session| fs::read_dir(session.path()).into_iter().flatten().flatten())
        {
            for dir in [attempt.path(), attempt.path().join("setup")].map(AttemptDir::new) {
                let pid = fs::read_to_string(dir.pid_file()).ok().and_then(|text| text.trim().parse().ok());
                if let (Some(pid), Ok(true)) = (pid, dir.shim_lives()) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
            }
        }
    }
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + LONG;
    while !holds() {
        assert!(std::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a file or folder is there.
pub async fn there(path: &Path) {
    let until = std::time::Instant::now() + LONG;
    while !path.exists() {
        assert!(std::time::Instant::now() < until, "never: {}", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Stands for claude; its source says what it understands.
pub const SCRIPTED: &str = env!("CARGO_BIN_EXE_muster-test-agent");

impl Machine {
    pub fn new(controller: &Controller) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().canonicalize().expect("real");
        let (home, repo, state) = (base.join("home"), base.join("repo"), base.join("state"));
        fs::create_dir(&home).expect("created");
        fs::create_dir(&repo).expect("created");
        git(&repo, &["init", "-q"]);
        fs::write(repo.join("a.txt"), "one\n").expect("written");
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "-q", "-m", "first"]);
        let mut claude = ClaudeConfig { program: PathBuf::from(SCRIPTED), ..ClaudeConfig::default() };
        claude.env.insert("HOME".to_owned(), home.to_string_lossy().into_owned());
        let short = Duration::from_millis(300);
        let timing = Timing {
            interrupt_grace: short,
            close_grace: short,
            term_grace: short,
            exit_grace: Duration::from_secs(2),
            settle: short,
            reconnect_first: Duration::from_millis(5),
            reconnect_max: Duration::from_millis(50),
            ..Timing::default()
        };
        let project = ProjectConfig {
            name: "p".to_owned(),
            path: repo.clone(),
            allow_trust_mode: false,
            trusted: false,
            allow_push: false,
        };
        let config = Config {
            controller: format!("http://{}", controller.addr).into(),
            name: "w1".parse().expect("valid"),
            state_dir: state.clone(),
            slots: 4,
            labels: BTreeMap::new(),
            projects: vec![project],
            declared: DeclaredConfig::default(),
            needs: Needs::default(),
            claude,
            shim_program: PathBuf::from(env!("CARGO_BIN_EXE_muster-shim")),
            timing,
        };
        Self { _dir: dir, home, repo, state, config, shutdown: Shutdown::new(), worker: None }
    }

    pub async fn start(&mut self) {
        self.shutdown = Shutdown::new();
        let worker = Worker::start(self.config.clone(), self.shutdown.clone()).await.expect("it starts");
        self.worker = Some(worker);
    }

    /// As if killed: nothing is said to anybody.
    pub fn kill(&mut self) {
        self.worker = None;
    }

    pub async fn leave(&mut self) {
        self.shutdown.request();
        self.worker.take().expect("it runs").finished().await;
    }

    pub fn attempt_dir(&self, start: &StartSession) -> PathBuf {
        self.state.join("sessions").join(&start.session_id).join(format!("attempt-{}", start.attempt))
    }
}
