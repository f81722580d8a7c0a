//! Every published version of the protocol between worker and shim, recorded, against what is built today. A worker that
//! is upgraded finds shims of the version before, and speaks with them until their sessions end.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use muster_worker::shim::{
    client::{self, Word},
    files::{AttemptDir, Exit, LAUNCH_VERSION, Launch},
    protocol::{Frames, FromShim, ToShim},
};

const V1: &str = include_str!("testdata/shim_protocol_v1.txt");
const V2: &str = include_str!("testdata/shim_protocol_v2.txt");
const LONG: Duration = Duration::from_secs(30);

/// What one side said, frame by frame.
fn said(who: &str) -> Vec<Vec<u8>> {
    recorded(V1, who)
}

fn recorded(conversation: &str, who: &str) -> Vec<Vec<u8>> {
    let lines = conversation.lines().filter_map(|line| line.strip_prefix(who)?.strip_prefix(' '));
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex");
    lines.map(|hex| hex.as_bytes().chunks(2).map(byte).collect()).collect()
}

fn worker_frames() -> Vec<ToShim> {
    vec![
        ToShim::Hello { min: 1, max: 1 },
        ToShim::Input { seq: 1, bytes: b"{\"type\":\"user\"}\n".to_vec() },
        ToShim::Input { seq: 0, bytes: b"{}\n".to_vec() },
        ToShim::Signal(15),
        ToShim::CloseStdin,
        ToShim::KillTree,
    ]
}

fn exit() -> Exit {
    Exit { code: Some(0), spool_end: 1016, ..Exit::default() }
}

fn shim_frames() -> Vec<FromShim> {
    vec![
        FromShim::Welcome { version: 1, child: 4242, spool_end: 1000, written: vec![7] },
        FromShim::InputWritten { seq: 1 },
        FromShim::Grown { spool_end: 1016 },
        FromShim::SpoolState { errno: 28 },
        FromShim::SpoolState { errno: 0 },
        FromShim::Refused { seq: 2, text: "claude's stdin is closed".to_owned() },
        FromShim::Exited { json: serde_json::to_vec(&exit()).expect("it is JSON") },
    ]
}

fn lapsed() -> Exit {
    Exit { signal: Some(9), spool_end: 1016, lease_lapsed: true, ..Exit::default() }
}

fn second_worker_frames() -> Vec<ToShim> {
    vec![
        ToShim::Hello { min: 1, max: 2 },
        ToShim::Lease { until: 4_000_000_000_000 },
        ToShim::Input { seq: 1, bytes: b"{\"type\":\"user\"}\n".to_vec() },
        ToShim::Lease { until: 4_000_000_002_000 },
        ToShim::CloseStdin,
    ]
}

fn second_shim_frames() -> Vec<FromShim> {
    vec![
        FromShim::Welcome { version: 2, child: 4242, spool_end: 1000, written: Vec::new() },
        FromShim::InputWritten { seq: 1 },
        FromShim::Grown { spool_end: 1016 },
        FromShim::Exited { json: serde_json::to_vec(&lapsed()).expect("it is JSON") },
    ]
}

#[test]
fn the_second_version_is_read_and_written_as_it_was() {
    let decode = |bytes: &[u8]| {
        let mut frames = Frames::default();
        frames.push(bytes);
        let (kind, body) = frames.next_frame().expect("well formed").expect("whole");
        (kind, body.to_vec())
    };
    let said = recorded(V2, "worker");
    assert_eq!(said.len(), second_worker_frames().len());
    for (bytes, meant) in said.iter().zip(second_worker_frames()) {
        let (kind, body) = decode(bytes);
        assert_eq!(ToShim::decode(kind, &body).expect("well formed"), Some(meant.clone()));
        let mut encoded = Vec::new();
        meant.encode(&mut encoded);
        assert_eq!(&encoded, bytes, "{meant:?}");
    }
    let said = recorded(V2, "shim");
    assert_eq!(said.len(), second_shim_frames().len());
    for (bytes, meant) in said.iter().zip(second_shim_frames()) {
        let (kind, body) = decode(bytes);
        assert_eq!(FromShim::decode(kind, &body).expect("well formed"), Some(meant.clone()));
        let mut encoded = Vec::new();
        meant.encode(&mut encoded);
        assert_eq!(&encoded, bytes, "{meant:?}");
    }
}

#[tokio::test]
async fn a_worker_of_today_understands_a_shim_of_the_second_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("shim.sock")).expect("bound");
    let shim = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a worker");
        let mut hello = vec![0; recorded(V2, "worker")[0].len()];
        stream.read_exact(&mut hello).expect("a hello");
        stream.write_all(&recorded(V2, "shim").concat()).expect("it listens");
    });
    let mut link = client::connect(&AttemptDir::new(dir.path())).await.expect("welcome");
    let mut words = Vec::new();
    while let Some(word) = tokio::time::timeout(LONG, link.words.recv()).await.expect("it speaks on") {
        words.push(word);
    }
    assert_eq!(words, [Word::InputWritten(1), Word::Exited(lapsed()), Word::Closed]);
    shim.join().expect("it saw what it expected");
}

#[test]
fn the_first_version_is_read_and_written_as_it_was() {
    let decode = |bytes: &[u8]| {
        let mut frames = Frames::default();
        frames.push(bytes);
        let (kind, body) = frames.next_frame().expect("well formed").expect("whole");
        (kind, body.to_vec())
    };
    let recorded = said("worker");
    assert_eq!(recorded.len(), worker_frames().len());
    for (bytes, meant) in recorded.iter().zip(worker_frames()) {
        let (kind, body) = decode(bytes);
        assert_eq!(ToShim::decode(kind, &body).expect("well formed"), Some(meant.clone()));
        let mut encoded = Vec::new();
        meant.encode(&mut encoded);
        assert_eq!(&encoded, bytes, "{meant:?}");
    }
    let recorded = said("shim");
    assert_eq!(recorded.len(), shim_frames().len());
    for (bytes, meant) in recorded.iter().zip(shim_frames()) {
        let (kind, body) = decode(bytes);
        assert_eq!(FromShim::decode(kind, &body).expect("well formed"), Some(meant.clone()));
        let mut encoded = Vec::new();
        meant.encode(&mut encoded);
        assert_eq!(&encoded, bytes, "{meant:?}");
    }
}

#[tokio::test]
async fn a_worker_of_today_understands_a_shim_of_the_first_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("shim.sock")).expect("bound");
    let shim = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a worker");
        let mut hello = vec![0; said("worker")[0].len()];
        stream.read_exact(&mut hello).expect("a hello");
        let mut frames = Frames::default();
        frames.push(&hello);
        let (kind, body) = frames.next_frame().expect("well formed").expect("whole");
        let hello = ToShim::decode(kind, body).expect("well formed");
        assert!(matches!(hello, Some(ToShim::Hello { min, max }) if (min..=max).contains(&1)), "{hello:?}");
        stream.write_all(&said("shim").concat()).expect("it listens");
    });
    let mut link = client::connect(&AttemptDir::new(dir.path())).await.expect("welcome");
    assert_eq!((link.child, &*link.written), (4242, &[7][..]));
    let mut words = Vec::new();
    while let Some(word) = tokio::time::timeout(LONG, link.words.recv()).await.expect("it speaks on") {
        words.push(word);
    }
    let refused = Word::Refused(2, "claude's stdin is closed".to_owned());
    assert_eq!(
        words,
        [
            Word::InputWritten(1),
            Word::SpoolState(28),
            Word::SpoolState(0),
            refused,
            Word::Exited(exit()),
            Word::Closed
        ]
    );
    assert_eq!(*link.spool_end.borrow(), 1016);
    shim.join().expect("it saw what it expected");
}

#[tokio::test]
async fn a_shim_of_today_understands_a_worker_of_the_first_version() {
    let recorded = said("worker");
    // Hello, the first input, and the end of stdin.
    understands(&[&*recorded[0], &recorded[1], &recorded[4]].concat(), 1, None).await;
}

#[tokio::test]
async fn a_shim_of_today_understands_a_worker_of_the_second_version() {
    understands(&recorded(V2, "worker").concat(), 2, Some(3_000_000_000_000)).await;
}

async fn understands(conversation: &[u8], speaks: u16, lease_until: Option<u64>) {
    let dir = tempfile::tempdir().expect("a directory");
    let place = AttemptDir::new(dir.path());
    let launch = Launch {
        version: LAUNCH_VERSION,
        program: PathBuf::from("/bin/cat"),
        args: Vec::new(),
        env: BTreeMap::new(),
        secret_env: Vec::new(),
        cwd: dir.path().to_owned(),
        rows: 50,
        cols: 200,
        spool: dir.path().join("spool"),
        spool_base: 1000,
        output_start: 1000,
        spool_limit: 0,
        lease_until,
    };
    place.write_launch(&launch).expect("written");
    let shim = Path::new(env!("CARGO_BIN_EXE_muster-shim"));
    let _other = client::launch(shim, &place).await.expect("it starts");
    let mut stream = UnixStream::connect(dir.path().join("shim.sock")).expect("it listens");
    stream.set_read_timeout(Some(LONG)).expect("set");
    stream.write_all(conversation).expect("it reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("it speaks, then leaves");
    let (mut frames, mut heard) = (Frames::default(), Vec::new());
    frames.push(&bytes);
    while let Some((kind, body)) = frames.next_frame().expect("well formed") {
        heard.extend(FromShim::decode(kind, body).expect("well formed"));
    }
    let FromShim::Welcome { version, spool_end: 1000, .. } = heard[0] else { panic!("{heard:?}") };
    assert_eq!(version, speaks);
    assert!(heard.contains(&FromShim::InputWritten { seq: 1 }), "{heard:?}");
    let Some(FromShim::Exited { json }) = heard.last() else { panic!("{heard:?}") };
    assert_eq!(serde_json::from_slice::<Exit>(json).expect("as it was"), exit());
    assert_eq!(fs::read(dir.path().join("spool")).expect("there"), b"{\"type\":\"user\"}\n");
}
