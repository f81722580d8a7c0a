use proptest::prelude::*;

use super::*;
use crate::disk::faulty::{Faults, FaultyDisk};

#[test]
fn appending_is_idempotent_refuses_gaps_and_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("output");
    let session = SessionId::generate();
    let replicas = Replicas::open(&folder).expect("opened");
    let replica = replicas.of(session);
    let append = |offset, data: &'static str| replica.append(0, offset, &Bytes::from_static(data.as_bytes()));
    assert_eq!(append(0, "hello").expect("written"), Appended::Held(5));
    assert_eq!(append(0, "hello").expect("written"), Appended::Held(5));
    assert_eq!(append(3, "lo wo").expect("written"), Appended::Held(8));
    assert_eq!(append(9, "gap").expect("answered"), Appended::Gap(8));
    assert_eq!(append(8, "rld").expect("written"), Appended::Held(11));
    assert_eq!(replica.sync().expect("synced"), 11);
    replica.rest();
    assert_eq!(&replica.read(6, 100).expect("read")[..], b"world");
    assert_eq!(&replica.read(0, 5).expect("read")[..], b"hello");
    assert_eq!(replica.read(11, 5).expect("read"), Bytes::new());

    let again = Replicas::open(&folder).expect("opened");
    assert_eq!(again.end(session), 11);
    assert_eq!(again.end(SessionId::generate()), 0);
    let more = again.of(session).append(0, 11, &Bytes::from_static(b"!")).expect("written");
    assert_eq!(more, Appended::Held(12));
    assert_eq!(again.of(session).sync().expect("synced"), 12);

    let held = again.of(session);
    again.remove(session).expect("removed");
    again.remove(session).expect("nothing to do");
    assert_eq!(again.end(session), 0);
    held.append(0, 12, &Bytes::from_static(b"late")).expect_err("it is forgotten");
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 0);
}

/// What may happen to one session's copy.
#[derive(Debug, Clone, Copy)]
enum Op {
    /// The session says more.
    Say(u16),
    /// A chunk goes on its way from the sender's position.
    Send(u16),
    /// One on its way arrives: any of them, so that they overtake each other.
    Arrive(u8),
    /// One arrives and is still on its way.
    Duplicate(u8),
    /// One is lost.
    Lose(u8),
    /// Made durable; what it returns is acknowledged.
    Sync,
    /// The sender asks where to go on.
    Open,
    Rest,
    /// The controller is killed: what was written stays.
    Kill,
    /// The power goes: of what was not synced some bytes may stay.
    PowerCut(u8),
    Break(Faults),
}

fn op() -> impl Strategy<Value = Op> {
    let faults = (any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(write, sync, folder)| Op::Break(Faults { write, sync, folder }));
    prop_oneof![
        4 => (1..2000u16).prop_map(Op::Say),
        8 => (1..700u16).prop_map(Op::Send),
        10 => any::<u8>().prop_map(Op::Arrive),
        3 => any::<u8>().prop_map(Op::Duplicate),
        2 => any::<u8>().prop_map(Op::Lose),
        5 => Just(Op::Sync),
        3 => Just(Op::Open),
        1 => Just(Op::Rest),
        2 => Just(Op::Kill),
        2 => any::<u8>().prop_map(Op::PowerCut),
        1 => faults,
        2 => Just(Op::Break(Faults::default())),
    ]
}

/// Byte `at` of what the session says: no two neighbouring chunks are alike.
fn said(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

struct Link {
    folder: std::path::PathBuf,
    disk: FaultyDisk,
    session: SessionId,
    replicas: Replicas,
    produced: u64,
    /// Where the sender goes on.
    position: u64,
    /// What the sender may forget.
    acked: u64,
    on_their_way: Vec<(u64, Bytes)>,
}

impl Link {
    fn chunk(&self, from: u64, len: u16) -> (u64, Bytes) {
        let to = self.produced.min(from + u64::from(len));
        (from, (from..to).map(said).collect::<Vec<_>>().into())
    }

    fn arrive(&mut self, which: u8, stays: bool) {
        if self.on_their_way.is_empty() {
            return;
        }
        let which = usize::from(which) % self.on_their_way.len();
        let (offset, data) =
            if stays { self.on_their_way[which].clone() } else { self.on_their_way.remove(which) };
        let end = self.replicas.end(self.session);
        match self.replicas.of(self.session).append(0, offset, &data) {
            Ok(Appended::Held(now)) => assert_eq!(now, end.max(offset + data.len() as u64)),
            Ok(Appended::Gap(told)) => {
                assert!(told == end && offset > end, "a chunk at {offset} is refused at {end}");
                self.position = told;
            }
            Ok(Appended::Fenced) => panic!("nobody else appends"),
            Err(_) => assert_eq!(self.replicas.end(self.session), end, "what failed counts"),
        }
    }

    fn start_again(&mut self) {
        self.replicas =
            Replicas::open_on(&self.folder, Arc::new(self.disk.clone())).expect("the folder is there");
        self.on_their_way.clear();
        self.position = self.replicas.end(self.session);
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Say(len) => self.produced += u64::from(len),
            Op::Send(len) => {
                let chunk = self.chunk(self.position, len);
                self.position += chunk.1.len() as u64;
                self.on_their_way.push(chunk);
            }
            Op::Arrive(which) => self.arrive(which, false),
            Op::Duplicate(which) => self.arrive(which, true),
            Op::Lose(which) if !self.on_their_way.is_empty() => {
                let which = usize::from(which) % self.on_their_way.len();
                self.on_their_way.remove(which);
            }
            Op::Sync => {
                if let Ok(end) = self.replicas.of(self.session).sync() {
                    assert!(end >= self.acked, "{end} is acknowledged after {}", self.acked);
                    self.acked = end;
                }
            }
            Op::Open => self.position = self.replicas.end(self.session),
            Op::Rest => self.replicas.of(self.session).rest(),
            Op::Kill => self.start_again(),
            Op::PowerCut(spared) => {
                self.disk.cut_power(&self.folder, usize::from(spared));
                self.start_again();
            }
            Op::Break(faults) => self.disk.fail(faults),
            Op::Lose(_) => {}
        }
        self.check();
    }

    /// acknowledged <= held <= said, and what is held is what was said.
    fn check(&self) {
        let replica = self.replicas.of(self.session);
        let end = replica.end();
        assert!(self.acked <= end, "{} was acknowledged and {end} is held", self.acked);
        assert!(end <= self.produced, "{end} is held of {}", self.produced);
        let held = replica.read(0, usize::MAX).expect("readable");
        assert_eq!(held.len() as u64, end);
        let wrong = held.iter().zip(0..).find(|(byte, at)| **byte != said(*at));
        assert_eq!(wrong, None, "a byte is not what was said");
    }
}

/// Few enough for every run of the tests; `PROPTEST_CASES` asks for more.
fn cases() -> ProptestConfig {
    let given = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { given } else { ProptestConfig { cases: 80, ..given } }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn whatever_is_lost_repeated_overtaken_or_cut_off_no_acknowledged_byte_is_wrong_or_missing(
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = FaultyDisk::default();
        let folder = dir.path().join("output");
        let replicas = Replicas::open_on(&folder, Arc::new(disk.clone())).expect("opened");
        let session = SessionId::generate();
        let mut link = Link {
            folder, disk, session, replicas, produced: 0, position: 0, acked: 0, on_their_way: Vec::new(),
        };
        for op in ops {
            link.step(op);
        }
        // Nothing fails any more: all of it arrives.
        link.step(Op::Break(Faults::default()));
        link.step(Op::Open);
        while link.position < link.produced {
            link.step(Op::Send(u16::MAX));
            link.step(Op::Arrive(u8::MAX));
            link.step(Op::Open);
        }
        link.step(Op::Sync);
        prop_assert_eq!(link.acked, link.produced);
        link.step(Op::PowerCut(0));
        prop_assert_eq!(link.replicas.end(session), link.produced);
    }
}
