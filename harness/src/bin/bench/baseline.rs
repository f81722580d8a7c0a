//! The floor: the same program, started by hand in a raw PTY, with nothing between.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use muster_harness::{
    fleet::Claude,
    scenario::{Turn, scripted_prompt},
    scratch_repo::ScratchRepo,
};
use nix::{pty::openpty, sys::termios};
use serde_json::json;

/// A claude in a PTY of our own.
struct Bare {
    child: Child,
    master: File,
}

fn start(folder: &Path, turns: &[Turn]) -> anyhow::Result<Bare> {
    let pty = openpty(None, None)?;
    let mut raw = termios::tcgetattr(&pty.slave)?;
    termios::cfmakeraw(&mut raw);
    termios::tcsetattr(&pty.slave, termios::SetArg::TCSANOW, &raw)?;
    let mut child = Command::new(Claude::Scripted.program()?)
        .args(["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"])
        .args(["--permission-prompt-tool", "stdio"])
        .current_dir(folder)
        .env_remove("HOME")
        .stdin(Stdio::piped())
        .stdout::<OwnedFd>(pty.slave)
        .stderr(Stdio::null())
        .spawn()?;
    let prompt = scripted_prompt("bare", turns);
    let line = json!({ "type": "user", "message": { "role": "user", "content": prompt } });
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    writeln!(stdin, "{line}")?;
    Ok(Bare { child, master: File::from(pty.master) })
}

/// `git worktree add`, exec in a PTY, first byte read. Leaves no worktree.
pub fn first_byte(repo: &ScratchRepo, scratch: &Path, number: usize) -> anyhow::Result<Duration> {
    let worktree = scratch.join(format!("bare-{number}"));
    let branch = format!("bare-{number}");
    let began = Instant::now();
    let path = worktree.to_string_lossy();
    repo.git(&["worktree", "add", "--quiet", "-b", &branch, &path])?;
    let mut bare = start(&worktree, &[Turn::text("bare")])?;
    let mut byte = [0];
    bare.master.read_exact(&mut byte)?;
    let took = began.elapsed();
    drain(&mut bare);
    bare.child.wait()?;
    repo.git(&["worktree", "remove", "--force", &path])?;
    Ok(took)
}

/// Starts the program, reads it to its end, `count` times one after the other. Programs a second.
pub fn programs_a_second(folder: &Path, count: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    for _ in 0..count {
        let mut bare = start(folder, &[Turn::text("bare")])?;
        drain(&mut bare);
        bare.child.wait()?;
    }
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Reads all that `turns` print in a bare loop, and writes it to `file` if there is one. Bytes and time.
pub fn read_loop(folder: &Path, turns: &[Turn], file: Option<&Path>) -> anyhow::Result<(u64, Duration)> {
    let began = Instant::now();
    let mut bare = start(folder, turns)?;
    let bytes = match file {
        None => drain(&mut bare),
        Some(path) => {
            let (mut file, mut buffer, mut bytes) = (File::create(path)?, vec![0; 1 << 16], 0);
            while let Ok(count @ 1..) = bare.master.read(&mut buffer) {
                file.write_all(&buffer[..count])?;
                bytes += count as u64;
            }
            bytes
        }
    };
    let took = began.elapsed();
    bare.child.wait()?;
    Ok((bytes, took))
}

/// Reads to the end; a PTY whose other side is closed says EIO.
fn drain(bare: &mut Bare) -> u64 {
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    while let Ok(count @ 1..) = bare.master.read(&mut buffer) {
        bytes += count as u64;
    }
    bytes
}
