//! The calls that need `unsafe`: leaving the worker's process tree, and starting claude on the slave of a PTY.
//!
//! The only file of the workspace that may use it. Everything here runs in the shim, which has one thread.

#![allow(unsafe_code)]

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt as _, PermissionsExt as _},
            process::CommandExt as _,
        },
    },
    process::{Child, Command, Stdio},
};

use nix::{
    libc,
    sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr},
    unistd::ForkResult,
};
use portable_pty::{PtySize, native_pty_system};

use super::{cgroup::Cgroup, files::Launch};

/// claude, started, and our end of its terminal.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) master: OwnedFd,
}

/// Splits the process. The caller must not have started a thread.
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: fork is unsound only where other threads may hold locks that the child then finds locked for ever. The
    // shim is entered before any runtime exists and starts no thread.
    unsafe { nix::unistd::fork() }
}

/// Closes every descriptor above stderr: one inherited by accident (a shell's, a test's) would stay open for as long as
/// the session lives. The caller must own none.
pub(super) fn close_inherited() {
    // SAFETY: called first thing in a process of its own, before anything was opened, so no owner loses a descriptor.
    // A kernel without it (before 5.9) keeps them: untidy, not wrong.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
}

/// Opens a raw PTY and runs the program of `launch` with its stdout on it. stdin and stderr are pipes: claude refuses a
/// terminal as stdin, and its complaints must not mix with the protocol. `group`: entered first.
pub(super) fn start(launch: &Launch, group: Option<&Cgroup>) -> io::Result<Started> {
    check(launch)?;
    let size = PtySize { rows: launch.rows, cols: launch.cols, pixel_width: 0, pixel_height: 0 };
    let pair = native_pty_system().openpty(size).map_err(io::Error::other)?;
    let raw_fd = pair.master.as_raw_fd().ok_or_else(|| io::Error::other("the pty has no descriptor"))?;
    // SAFETY: `pair.master` owns the descriptor and lives until the end of this function; the borrow ends at once.
    let master = unsafe { BorrowedFd::borrow_raw(raw_fd) }.try_clone_to_owned()?;
    // Before anything can be written: a cooked terminal turns \n into \r\n and reacts to control bytes.
    let mut termios = tcgetattr(&master)?;
    cfmakeraw(&mut termios);
    tcsetattr(&master, SetArg::TCSANOW, &termios)?;
    let name = pair.master.tty_name().ok_or_else(|| io::Error::other("the pty has no name"))?;
    let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name)?;

    let mut command = Command::new(&launch.program);
    command.args(&launch.args).env_clear().envs(&launch.env).current_dir(&launch.cwd);
    command.stdin(Stdio::piped()).stdout(Stdio::from(slave)).stderr(Stdio::piped());
    let open = group.and_then(|group| group.entrance().ok());
    let entrance = open.as_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: the closure runs between fork and exec and calls only write, signal, setsid and ioctl, which are async-signal-safe;
    // it allocates nothing and touches no memory of the parent. Descriptor 1 is the slave by then; the entrance is open
    // until after the spawn. Who cannot enter stays outside: the walk through the tree finds it there.
    unsafe {
        command.pre_exec(move || {
            if let Some(entrance) = entrance {
                libc::write(entrance, c"0".as_ptr().cast(), 1);
            }
            // Ignored in a worker started by nohup, it would be in claude too, which then outlived its terminal.
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            if libc::setsid() < 0 || libc::ioctl(libc::STDOUT_FILENO, libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn()?;
    drop(open);
    Ok(Started { child, master })
}

/// What exec would report badly or not at all.
fn check(launch: &Launch) -> io::Result<()> {
    let about = |error: io::Error, what: &str, path: &std::path::Path| {
        io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
    };
    let cwd = fs::metadata(&launch.cwd).map_err(|error| about(error, "working directory", &launch.cwd))?;
    if !cwd.is_dir() {
        return Err(about(io::ErrorKind::NotADirectory.into(), "working directory", &launch.cwd));
    }
    let program = fs::metadata(&launch.program).map_err(|error| about(error, "program", &launch.program))?;
    if !program.is_file() || program.permissions().mode() & 0o111 == 0 {
        return Err(about(io::ErrorKind::PermissionDenied.into(), "program", &launch.program));
    }
    Ok(())
}
