//! What may happen, at random.

use proptest::prelude::*;

use super::worker::Act;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Spawn {
        request: u8,
    },
    Message {
        session: u8,
        request: u8,
    },
    Answer {
        session: u8,
        attention: u8,
    },
    Interrupt {
        session: u8,
    },
    Stop {
        session: u8,
    },
    Archive {
        session: u8,
    },
    Tick,
    Connect {
        worker: u8,
    },
    Disconnect {
        worker: u8,
    },
    /// The worker takes its next commands.
    Take {
        worker: u8,
        count: u8,
    },
    /// Something happens to a session on the worker.
    Act {
        worker: u8,
        session: u8,
        act: Act,
    },
    /// The worker's next reports reach the engine.
    Report {
        worker: u8,
        count: u8,
    },
    /// Anything it ever reported reaches the engine once more.
    Repeat {
        worker: u8,
        which: u8,
    },
    /// A report arrives over a link that was replaced.
    Late {
        worker: u8,
        which: u8,
    },
    /// An attempt that is over speaks once more: a machine set back to an older image.
    Ghost {
        worker: u8,
        session: u8,
        what: u8,
    },
    /// The worker says that it is there.
    Beat {
        worker: u8,
    },
    /// Time passes for everybody alike, and everybody but one says that it is there.
    Pass {
        seconds: u8,
        silent: u8,
    },
    /// The worker's machine restarts: what ran is gone, what is on its disk is not.
    Reboot {
        worker: u8,
    },
    /// Its disk is gone too.
    Wipe {
        worker: u8,
    },
}

/// What becomes of the engine around one batch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    Lives,
    /// The store refuses.
    CommitFails,
    /// Dies after the batch was applied and before it was committed.
    DiesBefore,
    /// Dies after the commit, before anybody heard of it.
    DiesAfter,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Ready),
        4 => Just(Act::Apply),
        4 => Just(Act::Begin),
        3 => Just(Act::Ask),
        1 => Just(Act::Withdraw),
        2 => Just(Act::EndTurn),
        3 => Just(Act::Complete),
        1 => Just(Act::Fail),
        2 => Just(Act::Lose),
        1 => Just(Act::Hang),
        3 => Just(Act::Obey),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let worker = 0..3u8;
    let session = 0..6u8;
    prop_oneof![
        3 => (0..6u8).prop_map(|request| Op::Spawn { request }),
        2 => (session.clone(), 0..4u8).prop_map(|(session, request)| Op::Message { session, request }),
        4 => (session.clone(), 0..3u8).prop_map(|(session, attention)| Op::Answer { session, attention }),
        1 => session.clone().prop_map(|session| Op::Interrupt { session }),
        1 => session.clone().prop_map(|session| Op::Stop { session }),
        1 => session.clone().prop_map(|session| Op::Archive { session }),
        1 => Just(Op::Tick),
        4 => worker.clone().prop_map(|worker| Op::Connect { worker }),
        1 => worker.clone().prop_map(|worker| Op::Disconnect { worker }),
        8 => (worker.clone(), 1..4u8).prop_map(|(worker, count)| Op::Take { worker, count }),
        20 => (worker.clone(), session, act())
            .prop_map(|(worker, session, act)| Op::Act { worker, session, act }),
        10 => (worker.clone(), 1..6u8).prop_map(|(worker, count)| Op::Report { worker, count }),
        2 => (worker.clone(), any::<u8>()).prop_map(|(worker, which)| Op::Repeat { worker, which }),
        1 => (worker.clone(), any::<u8>()).prop_map(|(worker, which)| Op::Late { worker, which }),
        3 => (worker.clone(), any::<u8>(), any::<u8>())
            .prop_map(|(worker, session, what)| Op::Ghost { worker, session, what }),
        6 => worker.clone().prop_map(|worker| Op::Beat { worker }),
        4 => (worker.clone(), 0..200u8).prop_map(|(silent, seconds)| Op::Pass { seconds, silent }),
        1 => worker.clone().prop_map(|worker| Op::Reboot { worker }),
        1 => worker.prop_map(|worker| Op::Wipe { worker }),
    ]
}

pub(super) fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        20 => Just(Fate::Lives),
        1 => Just(Fate::CommitFails),
        1 => Just(Fate::DiesBefore),
        1 => Just(Fate::DiesAfter),
    ]
}

/// Few enough for every run of the tests; `PROPTEST_CASES` asks for more.
pub(super) fn cases() -> ProptestConfig {
    let given = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { given } else { ProptestConfig { cases: 100, ..given } }
}
