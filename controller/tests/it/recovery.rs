//! How long a controller takes to come back. Prints figures and asserts none: they are the machine's.

use std::time::Instant;

use muster_controller::{
    session::{Session, record::Fixed, stored},
    store::{Store as _, Txn, sled},
};
use muster_proto::{ids::SessionId, v1::*};

use crate::farm::Farm;

async fn fill(state: &std::path::Path, count: usize) {
    std::fs::create_dir_all(state).expect("a folder");
    let store = sled::Sled::open(&state.join("store"), sled::Options::default()).expect("a store");
    let mut txn = Txn::new();
    for number in 0..count {
        let spec = SessionSpec {
            prompt: format!("prompt {number}: ").repeat(20),
            project: "demo".into(),
            ..SessionSpec::default()
        };
        let fixed = Fixed {
            handle: format!("session-{number}"),
            spec: Some(spec),
            request_id: format!("request {number}"),
            ..Fixed::default()
        };
        let session = Session::new(SessionId::generate(), fixed, number as u64 + 1);
        stored::write(&mut txn, None, &session);
        if number % 500 == 499 || number + 1 == count {
            store.commit(std::mem::take(&mut txn)).await.expect("committed");
        }
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_at_a_thousand_and_ten_thousand_sessions() {
    for count in [1_000, 10_000] {
        let dir = tempfile::tempdir().expect("a folder");
        fill(&dir.path().join("state"), count).await;
        let begun = Instant::now();
        let mut farm = Farm::start_in(dir, |_| {}).await;
        let listening = begun.elapsed();
        let listed = farm.list(ListSessionsRequest::default()).await;
        let answered = begun.elapsed();
        assert_eq!(listed.total as usize, count);
        let last = format!("session-{}", count - 1);
        assert_eq!(farm.get(&last).await.queue_position as usize, count);
        let line = format!("{count} sessions: listens after {listening:?}, first list after {answered:?}");
        std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes()).expect("told");
        farm.leave().await;
    }
}
