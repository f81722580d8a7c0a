//! The poll loop. Owns everything of a running attempt; one thread, so nothing is ever half done when it is read.
//!
//! Invariants: the PTY is drained unless the disk refuses bytes; an input is in the journal before it is in the pipe;
//! `exit.json` is written last, when no descendant is left.
//!
//! ```text
//! running ──claude exits──► tree killed, draining ──PTY at its end, or 2 s──► exit.json, leave
//! ```

use std::{
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};

use super::{
    cgroup::Cgroup,
    clients::{self, Client},
    exec::Started,
    files::{AttemptDir, Exit},
    journal::Journal,
    lease::Lease,
    protocol::{FromShim, OLDEST, ToShim, VERSION},
    spool::Spool,
    stderr::StderrLog,
    stdin::{Accepted, Stdin, set_nonblocking},
    tree::{self, Ended},
};

/// Bytes taken from the PTY at a time.
const READ_BYTES: usize = 64 << 10;
/// Reads per wake-up, so that a flood does not keep a stop waiting.
const READS_PER_WAKE: usize = 16;
/// How long the PTY may stay open after claude and its tree are gone: only an unkillable process holds it then.
const DRAIN_FOR: Duration = Duration::from_secs(2);
/// How often a refused write is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// After a kill was ordered while the disk refuses bytes: how long the disk still has.
const ABANDON_AFTER: Duration = Duration::from_secs(5);
/// How long clients have to take the last word.
const GOODBYE_FOR: Duration = Duration::from_millis(500);

/// What the loop is made of, opened before claude starts so that nothing can fail after.
pub(super) struct Parts {
    pub(super) spool: Spool,
    pub(super) journal: Journal,
    pub(super) log: StderrLog,
    pub(super) listener: UnixListener,
    pub(super) signals: SignalFd,
    pub(super) group: Option<Cgroup>,
    pub(super) lease: Lease,
}

pub(super) struct Shim {
    dir: AttemptDir,
    child: Pid,
    ended: Option<Ended>,
    survivors: u32,
    master: Option<File>,
    stderr: Option<File>,
    stdin: Stdin,
    spool: Spool,
    told_errno: i32,
    log: StderrLog,
    listener: UnixListener,
    signals: SignalFd,
    group: Option<Cgroup>,
    lease: Lease,
    clients: Vec<Client>,
    drain_until: Option<Instant>,
    abandon_at: Option<Instant>,
    over_limit: bool,
    lease_lapsed: bool,
    buffer: Vec<u8>,
}

/// What poll found.
#[derive(Default)]
struct Ready {
    lease: bool,
    signals: bool,
    listener: bool,
    master: bool,
    stderr: bool,
    stdin: bool,
    clients: Vec<bool>,
}

/// SIGCHLD and SIGTERM become readable instead of interrupting. claude gets an empty mask: std resets it at exec.
pub(super) fn take_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGHUP);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

impl Shim {
    pub(super) fn new(dir: AttemptDir, started: Started, parts: Parts) -> io::Result<Self> {
        let Started { mut child, master } = started;
        let lost = || io::Error::other("claude was started without its pipes");
        let stdin = OwnedFd::from(child.stdin.take().ok_or_else(lost)?);
        let stderr = OwnedFd::from(child.stderr.take().ok_or_else(lost)?);
        set_nonblocking(&master)?;
        set_nonblocking(&stderr)?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Self {
            dir,
            child: Pid::from_raw(pid),
            ended: None,
            survivors: 0,
            master: Some(File::from(master)),
            stderr: Some(File::from(stderr)),
            stdin: Stdin::new(stdin, parts.journal)?,
            spool: parts.spool,
            told_errno: 0,
            log: parts.log,
            listener: parts.listener,
            signals: parts.signals,
            group: parts.group,
            lease: parts.lease,
            clients: Vec::new(),
            drain_until: None,
            abandon_at: None,
            over_limit: false,
            lease_lapsed: false,
            buffer: vec![0; READ_BYTES],
        })
    }

    pub(super) fn serve(&mut self) -> io::Result<()> {
        while !self.is_done() {
            let ready = self.wait()?;
            self.step(&ready);
        }
        self.leave()
    }

    fn is_done(&self) -> bool {
        let Some(until) = self.drain_until else { return false };
        let now = Instant::now();
        if self.spool.is_blocked() {
            return self.abandon_at.is_some_and(|at| now >= at);
        }
        self.master.is_none() || now >= until
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut fds = Vec::with_capacity(5 + self.clients.len());
        let read = PollFlags::POLLIN;
        fds.push(PollFd::new(self.signals.as_fd(), read));
        fds.push(PollFd::new(self.listener.as_fd(), read));
        let mut place = |fd| {
            fds.push(fd);
            fds.len() - 1
        };
        let master = match &self.master {
            Some(master) if !self.spool.is_blocked() => Some(place(PollFd::new(master.as_fd(), read))),
            _ => None,
        };
        let stderr = self.stderr.as_ref().map(|stderr| place(PollFd::new(stderr.as_fd(), read)));
        let stdin = self.stdin.poll_fd().map(|stdin| place(PollFd::new(stdin, PollFlags::POLLOUT)));
        let lease = self.lease.timer().map(|timer| place(PollFd::new(timer, read)));
        let first_client = fds.len();
        for client in &self.clients {
            let flags = if client.wants_write() { read | PollFlags::POLLOUT } else { read };
            fds.push(PollFd::new(client.fd(), flags));
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let hit = |index: usize| fds[index].revents().is_some_and(|flags| !flags.is_empty());
        Ok(Ready {
            lease: lease.is_some_and(hit),
            signals: hit(0),
            listener: hit(1),
            master: master.is_some_and(hit),
            stderr: stderr.is_some_and(hit),
            stdin: stdin.is_some_and(hit),
            clients: (first_client..fds.len()).map(hit).collect(),
        })
    }

    fn timeout(&self) -> PollTimeout {
        let retry = self.spool.is_blocked().then_some(RETRY_EVERY);
        let drain = self.drain_until.map(|until| until.saturating_duration_since(Instant::now()));
        let wait = match (retry, drain) {
            (Some(retry), _) => retry,
            (None, Some(drain)) => drain + Duration::from_millis(1),
            (None, None) => return PollTimeout::NONE,
        };
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    }

    fn step(&mut self, ready: &Ready) {
        // Before anything else: after a sleep of the machine nothing more may be written to claude.
        if (ready.lease || self.lease.is_over()) && self.ended.is_none() && !self.lease_lapsed {
            self.lease_lapsed = true;
            self.kill_tree();
        }
        if self.spool.is_blocked() {
            self.spool.retry();
            self.after_append();
        }
        if ready.master {
            self.drain();
        }
        if ready.stderr {
            self.drain_stderr();
        }
        if ready.signals {
            self.on_signals();
        }
        if ready.stdin {
            self.flush_stdin();
        }
        for index in 0..ready.clients.len() {
            if ready.clients[index] {
                for frame in self.clients[index].receive() {
                    self.on_frame(index, frame);
                }
            }
        }
        if ready.listener {
            clients::accept(&self.listener, &mut self.clients);
        }
        let spool_end = self.spool.end();
        self.clients.iter_mut().for_each(|client| client.flush(spool_end));
        self.clients.retain(|client| !client.dead);
    }

    /// PTY to spool. EIO is its end: every slave is closed.
    fn drain(&mut self) {
        let Some(master) = self.master.as_mut() else { return };
        let before = self.spool.end();
        for _ in 0..READS_PER_WAKE {
            if self.spool.is_blocked() {
                break;
            }
            match master.read(&mut self.buffer) {
                Ok(count) if count > 0 => self.spool.append(&self.buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.master = None;
                    break;
                }
            }
        }
        if self.spool.end() != before || self.spool.errno() != self.told_errno {
            self.after_append();
        }
        if self.spool.is_over_limit() && !self.over_limit && self.ended.is_none() {
            self.over_limit = true;
            self.kill_tree();
        }
    }

    fn after_append(&mut self) {
        self.clients.iter_mut().for_each(Client::note_growth);
        let errno = self.spool.errno();
        if errno != self.told_errno {
            self.told_errno = errno;
            self.broadcast(&FromShim::SpoolState { errno: errno.unsigned_abs() });
        }
    }

    fn drain_stderr(&mut self) {
        let Some(stderr) = self.stderr.as_mut() else { return };
        for _ in 0..READS_PER_WAKE {
            match stderr.read(&mut self.buffer) {
                Ok(count) if count > 0 => self.log.write(&self.buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.stderr = None;
                    return;
                }
            }
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo == Signal::SIGTERM as u32 {
                self.kill_tree(); // the machine goes down, or an operator ends this session by hand
            }
        }
        let (ended, _) = tree::reap(self.child);
        self.on_ended(ended);
    }

    fn on_ended(&mut self, ended: Option<Ended>) {
        if self.ended.is_some() || ended.is_none() {
            return;
        }
        self.ended = ended;
        self.stdin.abandon();
        // What claude left behind holds the PTY open and must not outlive it.
        let (_, survivors) = tree::kill_all(self.child, self.group.as_ref());
        self.survivors = survivors;
        self.drain_until = Some(Instant::now() + DRAIN_FOR);
    }

    fn kill_tree(&mut self) {
        self.abandon_at.get_or_insert(Instant::now() + ABANDON_AFTER);
        let (ended, survivors) = tree::kill_all(self.child, self.group.as_ref());
        self.survivors = survivors;
        self.on_ended(ended);
    }

    fn flush_stdin(&mut self) {
        for seq in self.stdin.flush() {
            self.broadcast(&FromShim::InputWritten { seq });
        }
    }

    fn broadcast(&mut self, frame: &FromShim) {
        for client in self.clients.iter_mut().filter(|client| client.greeted) {
            client.send(frame);
        }
    }

    fn on_frame(&mut self, index: usize, frame: ToShim) {
        if !self.clients[index].greeted && !matches!(frame, ToShim::Hello { .. }) {
            self.clients[index].dead = true;
            return;
        }
        match frame {
            ToShim::Hello { min, max } => self.greet(index, min, max),
            ToShim::Input { seq, bytes } => match self.stdin.accept(seq, bytes) {
                Accepted::Queued => self.flush_stdin(),
                Accepted::AlreadyWritten => self.clients[index].send(&FromShim::InputWritten { seq }),
                Accepted::Refused(text) => self.clients[index].send(&FromShim::Refused { seq, text }),
            },
            ToShim::CloseStdin => self.stdin.close(),
            ToShim::Signal(number) => {
                let signal = i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok());
                match signal {
                    Some(signal) if self.ended.is_none() => tree::signal_all(signal, self.group.as_ref()),
                    _ => {}
                }
            }
            ToShim::KillTree => self.kill_tree(),
            ToShim::Lease { until } => self.lease.extend(until),
        }
    }

    fn greet(&mut self, index: usize, min: u16, max: u16) {
        let client = &mut self.clients[index];
        client.greeted = true;
        let version = VERSION.min(max);
        if version < OLDEST.max(min) {
            let text = format!("this shim speaks versions {OLDEST} to {VERSION}, the worker {min} to {max}");
            client.send(&FromShim::Refused { seq: 0, text });
            return;
        }
        client.send(&FromShim::Welcome {
            version,
            child: self.child.as_raw().unsigned_abs(),
            spool_end: self.spool.end(),
            written: self.stdin.written(),
        });
        if self.told_errno != 0 {
            client.send(&FromShim::SpoolState { errno: self.told_errno.unsigned_abs() });
        }
    }

    /// The last act. A failure to write `exit.json` is tried again: without it the session would look lost.
    fn leave(&mut self) -> io::Result<()> {
        self.drain_stderr();
        let exit = Exit {
            code: self.ended.and_then(|ended| if let Ended::Code(code) = ended { Some(code) } else { None }),
            signal: self.ended.and_then(|ended| if let Ended::Signal(n) = ended { Some(n) } else { None }),
            start_error: None,
            spool_end: self.spool.end(),
            survivors: self.survivors,
            output_lost: self.spool.is_blocked(),
            output_limit: self.over_limit,
            lease_lapsed: self.lease_lapsed,
        };
        let mut result = self.spool.sync().and_then(|()| self.dir.write_exit(&exit));
        for _ in 0..60 {
            if result.is_ok() {
                break;
            }
            std::thread::sleep(RETRY_EVERY);
            result = self.spool.sync().and_then(|()| self.dir.write_exit(&exit));
        }
        result?;
        let frame = FromShim::Exited { json: serde_json::to_vec(&exit)? };
        clients::accept(&self.listener, &mut self.clients);
        self.broadcast(&frame);
        let until = Instant::now() + GOODBYE_FOR;
        while self.clients.iter().any(|client| client.wants_write() && !client.dead) && Instant::now() < until
        {
            self.clients.iter_mut().for_each(|client| client.flush(exit.spool_end));
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(group) = &self.group {
            self.dir.forget_cgroup(group);
        }
        let _ = std::fs::remove_file(self.dir.path().join(AttemptDir::SOCKET));
        Ok(())
    }
}
