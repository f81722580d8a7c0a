//! Running the binary: to its end, or as a role that is told to leave when the test is over.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long anything may take on a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Enough of a claude to be found and asked for its version; a session of it ends badly, and at once.
pub const CLAUDE: &str =
    "#!/bin/sh\n[ \"$1\" = --version ] && echo '2.1.330 (Claude Code)' && exit 0\nexit 7\n";

/// What a finished command left.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// A user of their own: a home, a state folder, a folder for programs, and a clean environment.
pub struct User {
    home: tempfile::TempDir,
}

impl User {
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        for folder in ["bin", "work", "state"] {
            std::fs::create_dir(home.path().join(folder)).expect("a folder");
        }
        Self { home }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Puts a program on this user's PATH.
    pub fn install(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path("bin").join(name);
        std::fs::write(&path, script).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command
            .args(args)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()))
            .env("HOME", self.home.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .current_dir(self.path("work"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Run {
        finish(self.command(args).spawn().expect("the binary starts"))
    }

    /// Starts a role, which leaves when the value is dropped.
    pub fn start(&self, args: &[&str]) -> Role {
        // stdout and stderr go to files: a pipe nobody reads would stop the role.
        let path = |kind| self.path(&format!("{}.{kind}", args[0]));
        let file = |kind| std::fs::File::create(path(kind)).expect("a file");
        let mut command = self.command(args);
        command.stdout(file("out")).stderr(file("err"));
        Role::new(command.spawn().expect("the binary starts"), path("err"))
    }
}

/// Waits for a command, but not for ever.
pub fn finish(mut child: Child) -> Run {
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut stream) = stream {
                stream.read_to_end(&mut text).expect("read");
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|it| Box::new(it) as _));
    let stderr = read(child.stderr.take().map(|it| Box::new(it) as _));
    let status = eventually("the command ends", || child.try_wait().expect("waited"));
    Run {
        code: status.code().unwrap_or(-1),
        stdout: stdout.join().expect("stdout"),
        stderr: stderr.join().expect("stderr"),
    }
}

/// A running role.
pub struct Role {
    child: Child,
    errors: PathBuf,
}

impl Role {
    /// Takes over a process, so that a test that fails leaves none behind. Its stderr is in `errors`, if
    /// anywhere.
    pub fn new(child: Child, errors: PathBuf) -> Self {
        Self { child, errors }
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("waited").is_none()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address in a port file, once it is there.
    pub fn address(&mut self, port_file: &Path) -> String {
        let errors = self.errors.clone();
        eventually("the role listens", || {
            if let Some(status) = self.child.try_wait().expect("waited") {
                panic!(
                    "the role ended with {status}: {}",
                    std::fs::read_to_string(&errors).unwrap_or_default()
                );
            }
            std::fs::read_to_string(port_file).ok().map(|text| text.trim().to_owned())
        })
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("signalled");
    }

    /// Asks it to leave and gives its exit code.
    pub fn leave(self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Its exit code, once it has left.
    pub fn wait(mut self) -> i32 {
        eventually("the role leaves", || self.child.try_wait().expect("waited")).code().unwrap_or(-1)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What `probe` gives as soon as it gives something.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
