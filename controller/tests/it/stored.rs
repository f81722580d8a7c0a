//! Stores written by earlier builds still open. A new format adds a folder to `tests/data`; none is changed.

use std::{fs, path::Path};

use muster_controller::store::{
    Store as _, Txn,
    sled::{Options, Sled},
};
use muster_proto::v1::*;

use crate::{
    farm::{Farm, config, spec},
    worker::{FakeWorker, hello, permission},
};

fn data() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/store-1")
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed").flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_format_1_opens_with_all_it_holds() {
    let dir = tempfile::tempdir().expect("a folder");
    copy_files(&data(), &dir.path().join("state/store"));
    let farm = Farm::start_in(dir, |_| {}).await;
    let all = ListSessionsRequest { include_archived: true, ..ListSessionsRequest::default() };
    let sessions = farm.list(all).await.sessions;
    let shown: Vec<_> = sessions
        .iter()
        .map(|s| (s.spec.as_ref().expect("a spec").prompt.as_str(), s.status(), s.attempt, s.pending_inputs))
        .collect();
    assert_eq!(
        shown,
        [
            ("asks", SessionStatus::NeedsAttention, 1, 0),
            ("waits", SessionStatus::Queued, 0, 1),
            ("done", SessionStatus::Completed, 1, 0),
        ]
    );
    assert_eq!(sessions[0].attention.as_ref().expect("one").attention_id, "a10");
    assert_eq!(sessions[2].result_text, "all done");
    assert_eq!(sessions[2].usage.expect("usage").input_tokens, 10);
    let again = farm.try_spawn(spec("waits"), "key").await.expect("known");
    assert!(again.replayed);
}

/// Run by hand, once per format, to make the folder of the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes test data"]
async fn write_format() {
    let mut farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let done = farm.spawn("done").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    worker.end(&done, 1, EndReason::TurnCompleted, "all done").await;
    farm.try_spawn(spec("asks"), "").await.expect("accepted");
    let start = worker.start().await;
    worker.work(&start).await;
    farm.try_spawn(spec("waits"), "key").await.expect("accepted");
    farm.leave().await;
    let folder = config(farm.dir.path().join("state")).state_dir.join("store");
    // Half of it in a snapshot, half in a journal.
    let store = Sled::open(&folder, Options { checkpoint_bytes: 1 }).expect("opened");
    store.commit(Txn::new().put("project/old/w0", Vec::new()).clone()).await.expect("committed");
    store.close().await;
    drop(store);
    farm.restart().await;
    let held = HeldSession {
        session_id: start.session_id.clone(),
        attempt: 1,
        running: true,
        spool_end_offset: 0,
        last_input: 1,
    };
    let mut worker = worker.reconnect(&farm, vec![held]).await;
    worker.ask(&start.session_id, 1, permission("a10")).await;
    farm.leave().await;
    copy_files(&folder, &data());
}
