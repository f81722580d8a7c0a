//! The shim as a process: bytes, exits, survivors, restarts of its client.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use muster_worker::shim::{
    client::{self, LinkError, ShimLink, Word},
    files::{AttemptDir, Exit, LAUNCH_VERSION, Launch},
    journal,
    protocol::ToShim,
    stderr,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const LONG: Duration = Duration::from_secs(30);
const SHIM: &str = env!("CARGO_BIN_EXE_muster-shim");

struct Place {
    _dir: tempfile::TempDir,
    attempt: AttemptDir,
    spool: PathBuf,
    cwd: PathBuf,
}

/// A test that fails half way must not leave its shim running.
impl Drop for Place {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.attempt.pid_file()).ok().and_then(|text| text.parse().ok());
        if let (Some(pid), Ok(true)) = (pid, self.attempt.shim_lives()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        } else if let Ok(group) = fs::read_to_string(self.attempt.cgroup()) {
            // Of a shim that was killed: a worker would find it by the note, which goes with this folder.
            let _ = fs::remove_dir(group);
        }
    }
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    // Longer than a socket address holds.
    let attempt = dir.path().join("a".repeat(100)).join("attempt-1");
    fs::create_dir_all(&attempt).expect("created");
    let cwd = dir.path().join("work");
    fs::create_dir(&cwd).expect("created");
    Place { attempt: AttemptDir::new(attempt), spool: dir.path().join("spool"), cwd, _dir: dir }
}

fn launch_order(place: &Place, program: &str, args: &[&str]) -> Launch {
    Launch {
        version: LAUNCH_VERSION,
        program: PathBuf::from(program),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").expect("a PATH"))]),
        secret_env: Vec::new(),
        cwd: place.cwd.clone(),
        rows: 50,
        cols: 200,
        spool: place.spool.clone(),
        spool_base: 1000,
        output_start: 1000,
        spool_limit: 0,
        lease_until: None,
    }
}

async fn start(place: &Place, program: &str, args: &[&str]) -> Result<ShimLink, LinkError> {
    place.attempt.write_launch(&launch_order(place, program, args)).expect("written");
    client::launch(Path::new(SHIM), &place.attempt).await
}

async fn sh(place: &Place, script: &str) -> ShimLink {
    start(place, "/bin/sh", &["-c", script]).await.expect("it starts")
}

async fn exit(link: &mut ShimLink) -> Exit {
    let wait = async {
        loop {
            match link.words.recv().await.expect("Closed comes last") {
                Word::Exited(exit) => return exit,
                Word::Closed => panic!("closed before the exit"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("it exits")
}

async fn written(link: &mut ShimLink, seq: u64) {
    let wait = async { while link.words.recv().await != Some(Word::InputWritten(seq)) {} };
    tokio::time::timeout(LONG, wait).await.expect("it is written");
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

#[tokio::test]
async fn every_byte_of_five_megabytes_arrives_unchanged() {
    let place = place();
    let script = "head -c 5000000 /dev/urandom >truth; cat truth; exit 7";
    let mut link = sh(&place, script).await;
    let exit = exit(&mut link).await;
    assert_eq!((exit.code, exit.signal, exit.survivors), (Some(7), None, 0));
    assert_eq!(exit.spool_end, 1000 + 5_000_000);
    let truth = fs::read(place.cwd.join("truth")).expect("there");
    assert!(fs::read(&place.spool).expect("there") == truth, "bytes differ");
    assert_eq!(place.attempt.read_exit().expect("readable"), Some(exit));
    wait_for("the shim leaves", || !place.attempt.shim_lives().expect("readable"));
}

#[tokio::test]
async fn stdin_is_a_pipe_stdout_the_controlling_terminal_and_stderr_a_log() {
    let place = place();
    let script = "is() { \"$@\" && echo yes || echo no; }
true </dev/tty && is [ -t 0 ]; is [ -t 1 ]; is [ -t 2 ]; stty size <&1
read -r pid name state parent group session rest </proc/$$/stat; is [ $session = $$ ]
echo complaint >&2
tr '\\0' '\\n' </proc/$$/environ; ls /proc/self/fd | tr '\\n' ' '";
    let mut link = sh(&place, script).await;
    assert_eq!(exit(&mut link).await.code, Some(0));
    let out = String::from_utf8(fs::read(&place.spool).expect("there")).expect("text");
    assert!(out.starts_with("no\nyes\nno\n50 200\nyes\n"), "{out}");
    let variables: Vec<&str> = out.lines().skip(5).filter(|line| line.contains('=')).collect();
    assert!(variables.len() == 1 && variables[0].starts_with("PATH="), "a clean environment: {out}");
    assert!(out.ends_with("\n0 1 2 3 "), "no descriptor of ours: {out}");
    assert_eq!(stderr::tail(&place.attempt.stderr_log(), 100), "complaint");
}

#[tokio::test]
async fn what_cannot_be_executed_is_told_with_its_reason() {
    for (program, cwd, reason) in [
        ("/no/such/program", None, "No such file"),
        ("/etc/passwd", None, "permission denied"),
        ("/bin/sh", Some("/no/such/dir"), "working directory /no/such/dir"),
    ] {
        let place = place();
        let mut order = launch_order(&place, program, &[]);
        if let Some(cwd) = cwd {
            order.cwd = PathBuf::from(cwd);
        }
        place.attempt.write_launch(&order).expect("written");
        let error = client::launch(Path::new(SHIM), &place.attempt).await.expect_err("it cannot start");
        assert!(matches!(&error, LinkError::Start(said) if said.contains(reason)), "{error}");
        let exit = place.attempt.read_exit().expect("readable").expect("written");
        assert!(exit.start_error.is_some_and(|said| said.contains(reason)));
    }
    // The kernel refuses it only at exec.
    let place = place();
    let script = place.cwd.join("bad");
    fs::write(&script, "#!/no/such/interpreter\n").expect("written");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let error = start(&place, script.to_str().expect("text"), &[]).await.expect_err("no interpreter");
    assert!(matches!(&error, LinkError::Start(said) if said.contains("os error 2")), "{error}");
}

#[tokio::test]
async fn what_daemonised_is_gone_when_the_exit_is_told() {
    let place = place();
    let script = "daemon='echo $$ >pid; mv pid survivor; exec sleep 600'
setsid sh -c 'sh -c \"$1\" &' sh \"$daemon\" <&- >&- 2>&-
while [ ! -e survivor ]; do sleep 0.01; done
echo done";
    let mut link = sh(&place, script).await;
    let exit = exit(&mut link).await;
    assert_eq!((exit.code, exit.survivors), (Some(0), 0));
    let pid = fs::read_to_string(place.cwd.join("survivor")).expect("there");
    assert!(!alive(&pid), "{pid} survived");
    assert_eq!(fs::read(&place.spool).expect("there"), b"done\n");
}

#[tokio::test]
async fn kill_tree_ends_a_program_that_ignores_everything() {
    let place = place();
    let mut link = sh(
        &place,
        "trap '' TERM INT HUP; (trap '' TERM; sleep 600) & echo $! > pid; mv pid child; wait; wait",
    )
    .await;
    wait_for("the child", || place.cwd.join("child").exists());
    link.order(ToShim::Signal(15)).await;
    link.order(ToShim::KillTree).await;
    let exit = exit(&mut link).await;
    assert_eq!((exit.code, exit.signal, exit.survivors), (None, Some(9), 0));
    assert!(!alive(&fs::read_to_string(place.cwd.join("child")).expect("there")));
}

#[tokio::test]
async fn a_two_megabyte_line_passes_the_pipe_and_a_close_follows_it() {
    let place = place();
    let mut link = sh(&place, "cat >got").await;
    let mut line = vec![b'x'; 2 << 20];
    line.push(b'\n');
    link.order(ToShim::Input { seq: 1, bytes: line.clone() }).await;
    link.order(ToShim::CloseStdin).await;
    assert_eq!(exit(&mut link).await.code, Some(0));
    assert!(fs::read(place.cwd.join("got")).expect("there") == line);
    let records = journal::read(&place.attempt.journal()).expect("readable");
    assert!(records.len() == 1 && records[0].seq == 1 && records[0].bytes == line);
}

#[tokio::test]
async fn a_client_that_comes_back_finds_all_and_an_input_sent_twice_arrives_once() {
    let place = place();
    let mut link = sh(&place, "read a; echo got $a; read b; echo got $b; echo over").await;
    link.order(ToShim::Input { seq: 1, bytes: b"one\n".to_vec() }).await;
    written(&mut link, 1).await;
    drop(link);
    wait_for("output without a client", || fs::read(&place.spool).is_ok_and(|got| got == b"got one\n"));

    let mut link = client::connect(&place.attempt).await.expect("it lives");
    assert_eq!(link.written, [1]);
    assert_eq!(*link.spool_end.borrow(), 1008);
    link.order(ToShim::Input { seq: 1, bytes: b"one again\n".to_vec() }).await;
    written(&mut link, 1).await;
    let mut second = client::connect(&place.attempt).await.expect("several may connect");
    link.order(ToShim::Input { seq: 2, bytes: b"two\n".to_vec() }).await;
    assert_eq!(exit(&mut link).await.code, Some(0));
    assert_eq!(exit(&mut second).await.code, Some(0));
    assert_eq!(fs::read(&place.spool).expect("there"), b"got one\ngot two\nover\n");
}

#[tokio::test]
async fn a_second_shim_for_one_attempt_is_refused() {
    let place = place();
    let mut link = sh(&place, "read a; exit 3").await;
    let again = client::launch(Path::new(SHIM), &place.attempt).await.expect("it only connects");
    again.order(ToShim::CloseStdin).await;
    assert_eq!(exit(&mut link).await.code, Some(3));
    wait_for("the shim leaves", || !place.attempt.shim_lives().expect("readable"));
    let error = client::launch(Path::new(SHIM), &place.attempt).await.expect_err("it ran before");
    assert!(error.to_string().contains("started before"), "{error}");
}

#[tokio::test]
async fn a_killed_shim_takes_its_program_along_by_the_hang_up() {
    let place = place();
    let link = sh(&place, "echo $$ > pid; mv pid child; exec sleep 600").await;
    wait_for("the child", || place.cwd.join("child").exists());
    let shim: i32 = fs::read_to_string(place.attempt.pid_file()).expect("there").parse().expect("a number");
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("killed");
    let child = fs::read_to_string(place.cwd.join("child")).expect("there");
    wait_for("the program goes too", || !alive(&child));
    assert!(!place.attempt.shim_lives().expect("readable"));
    assert!(place.attempt.was_started() && place.attempt.read_exit().expect("readable").is_none());
    drop(link);
}

#[tokio::test]
async fn the_hang_up_reaches_the_program_of_a_worker_that_ignores_it() {
    let place = place();
    let nohup = place.cwd.join("nohup-shim");
    fs::write(&nohup, format!("#!/bin/sh\ntrap '' HUP\nexec '{SHIM}' \"$@\"\n")).expect("written");
    fs::set_permissions(&nohup, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let script = "echo $$ > pid; mv pid child; exec sleep 600";
    place.attempt.write_launch(&launch_order(&place, "/bin/sh", &["-c", script])).expect("written");
    let link = client::launch(&nohup, &place.attempt).await.expect("it starts");
    wait_for("the child", || place.cwd.join("child").exists());
    let shim: i32 = fs::read_to_string(place.attempt.pid_file()).expect("there").parse().expect("a number");
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("killed");
    let child = fs::read_to_string(place.cwd.join("child")).expect("there");
    wait_for("the program goes too", || !alive(&child));
    drop(link);
}

#[tokio::test]
async fn a_full_disk_holds_the_program_and_is_told_until_it_is_killed() {
    let mut place = place();
    place.spool = PathBuf::from("/dev/full");
    let script = "while :; do echo something that fills a buffer; done & echo $! > pid; mv pid writer; wait";
    let mut link = sh(&place, script).await;
    let told = async { while link.words.recv().await != Some(Word::SpoolState(28)) {} };
    tokio::time::timeout(LONG, told).await.expect("told");
    let late = client::connect(&place.attempt).await.expect("it answers");
    assert_eq!(*late.spool_end.borrow(), 1000, "nothing is on disk");
    wait_for("the writer", || place.cwd.join("writer").exists());
    link.order(ToShim::KillTree).await;
    let exit = exit(&mut link).await;
    assert!(exit.output_lost && exit.signal == Some(9) && exit.spool_end == 1000, "{exit:?}");
    assert!(!alive(&fs::read_to_string(place.cwd.join("writer")).expect("there")));
}

#[tokio::test]
async fn a_spool_at_its_limit_ends_the_whole_tree_and_keeps_what_came() {
    let place = place();
    let script =
        "(trap '' TERM HUP; sleep 600) & echo $! > pid; mv pid child; while :; do echo 0123456789; done";
    let order = Launch { spool_limit: 100_000, ..launch_order(&place, "/bin/sh", &["-c", script]) };
    place.attempt.write_launch(&order).expect("written");
    let mut link = client::launch(Path::new(SHIM), &place.attempt).await.expect("it starts");
    let exit = exit(&mut link).await;
    assert!(exit.output_limit && !exit.output_lost && exit.survivors == 0, "{exit:?}");
    let spool = fs::read(&place.spool).expect("there");
    assert!((100_000..10_000_000).contains(&spool.len()), "{}", spool.len());
    assert_eq!(exit.spool_end, 1000 + spool.len() as u64);
    assert!(spool.chunks(11).rev().skip(1).all(|line| line == b"0123456789\n"), "no byte is missing");
    assert!(!alive(&fs::read_to_string(place.cwd.join("child")).expect("there")));
}

fn in_millis(millis: u64) -> Option<u64> {
    let now = muster_worker::clock::boot_time().as_millis();
    Some(u64::try_from(now).expect("small") + millis)
}

#[tokio::test]
async fn a_lease_that_nobody_moves_on_ends_the_whole_tree_without_a_worker() {
    let place = place();
    let script = "(trap '' TERM HUP; setsid sleep 600 & echo $! > pid; mv pid child; sleep 600) & \
                  trap '' TERM; while :; do sleep 600; done";
    let launch = Launch { lease_until: in_millis(300), ..launch_order(&place, "/bin/sh", &["-c", script]) };
    place.attempt.write_launch(&launch).expect("written");
    drop(client::launch(Path::new(SHIM), &place.attempt).await.expect("it starts"));
    wait_for("the end", || place.attempt.read_exit().expect("readable").is_some());
    let exit = place.attempt.read_exit().expect("readable").expect("there");
    assert!(exit.lease_lapsed && exit.signal == Some(9) && exit.survivors == 0, "{exit:?}");
    if let Ok(pid) = fs::read_to_string(place.cwd.join("child")) {
        assert!(!alive(&pid), "a tool in a session of its own");
    }
}

#[tokio::test]
async fn a_lease_moved_on_binds_on_and_one_that_is_over_begins_nothing() {
    let place = place();
    let soon = in_millis(5_000);
    let launch = Launch { lease_until: soon, ..launch_order(&place, "/bin/cat", &[]) };
    place.attempt.write_launch(&launch).expect("written");
    let mut link = client::launch(Path::new(SHIM), &place.attempt).await.expect("it starts");
    link.order(ToShim::Lease { until: in_millis(60_000).expect("some") }).await;
    link.order(ToShim::Lease { until: 1 }).await;
    link.order(ToShim::Input { seq: 1, bytes: b"told\n".to_vec() }).await;
    written(&mut link, 1).await;
    let past = || muster_worker::clock::boot_time().as_millis() > u128::from(soon.expect("some")) + 200;
    wait_for("the first end to pass", past);
    link.order(ToShim::Input { seq: 2, bytes: b"still here\n".to_vec() }).await;
    written(&mut link, 2).await;
    link.order(ToShim::CloseStdin).await;
    let exit = exit(&mut link).await;
    assert!(!exit.lease_lapsed && exit.code == Some(0), "{exit:?}");
    let late = self::place();
    let launch = Launch { lease_until: Some(1), ..launch_order(&late, "/bin/cat", &[]) };
    late.attempt.write_launch(&launch).expect("written");
    let error = client::launch(Path::new(SHIM), &late.attempt).await.expect_err("over");
    assert!(matches!(error, LinkError::Lapsed), "{error}");
    assert!(!late.attempt.was_started());
}
