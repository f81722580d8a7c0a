//! What every backend must do, run against each; and what the embedded one must survive.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use super::{
    Change, Error, OpenError, Shared, Store, Txn,
    failing::Failing,
    memory::Memory,
    sled::{Options, Sled},
};

fn put(key: &str, value: &str) -> Txn {
    let mut txn = Txn::new();
    txn.put(key, value.as_bytes().to_vec());
    txn
}

fn sled(dir: &Path) -> Sled {
    Sled::open(dir, Options::default()).expect("it opens")
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let entry = store.get(key).await.expect("readable");
    entry.map(|entry| String::from_utf8(entry.value.to_vec()).expect("text"))
}

async fn conforms(store: Shared) {
    assert_eq!(store.get("a").await.expect("readable"), None);
    let first = store.commit(put("a", "1")).await.expect("committed");
    let mut watch = store.watch(first).await.expect("watched");

    let mut both = Txn::new();
    both.expect("a", first).expect("b", 0).put("a", "2").put("b/1", "x").put("b/2", "y").put("ba", "z");
    let second = store.commit(both.clone()).await.expect("committed");
    assert!(second > first);
    let error = store.commit(both).await.expect_err("a moved on");
    assert!(matches!(error, Error::Conflict { found, .. } if found == second), "{error}");
    assert_eq!(value(&*store, "a").await.as_deref(), Some("2"));

    let scanned = store.scan("b/").await.expect("readable");
    assert_eq!(scanned.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["b/1", "b/2"]);
    assert!(scanned.iter().all(|(_, entry)| entry.revision == second));

    let mut removal = Txn::new();
    removal.delete("b/1").delete("never was");
    let third = store.commit(removal).await.expect("committed");
    assert_eq!(value(&*store, "b/1").await, None);
    let again = store.commit(put("b/1", "back")).await.expect("committed");
    assert_eq!(store.scan("").await.expect("readable").len(), 4);

    let mut seen = Vec::new();
    while seen.len() < 7 {
        seen.extend(watch.next().await.expect("watched"));
    }
    let revisions: Vec<_> = seen.iter().map(|change| change.revision).collect();
    assert_eq!(revisions, [second, second, second, second, third, third, again]);
    assert_eq!(seen[4], Change { revision: third, key: "b/1".into(), value: None });
    assert!(store.watch(again).await.is_ok());
}

async fn many_at_once(store: Shared) {
    let writers = (0..64).map(|writer| {
        let store = Arc::clone(&store);
        async move {
            for n in 0..20 {
                let key = format!("w{writer:02}/{n:02}");
                let revision = store.commit(put(&key, "v")).await.expect("committed");
                assert_eq!(store.get(&key).await.expect("readable").expect("there").revision, revision);
            }
        }
    });
    futures::future::join_all(writers).await;
    assert_eq!(store.scan("w").await.expect("readable").len(), 64 * 20);
    let mut counter = 0;
    for _ in 0..100 {
        let mut txn = put("counter", "n");
        txn.expect("counter", counter);
        counter = store.commit(txn).await.expect("nobody else writes it");
    }
}

#[tokio::test]
async fn memory_conforms() {
    conforms(Arc::new(Memory::default())).await;
    many_at_once(Arc::new(Memory::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sled_conforms() {
    let dir = tempfile::tempdir().expect("a folder");
    conforms(Arc::new(sled(&dir.path().join("one")))).await;
    many_at_once(Arc::new(sled(&dir.path().join("two")))).await;
}

#[tokio::test]
async fn failing_conforms_while_it_does_not_fail_and_changes_nothing_while_it_does() {
    let (store, switch) = Failing::new(Arc::new(Memory::default()));
    switch.fail(true);
    assert!(matches!(store.commit(put("a", "1")).await, Err(Error::Unavailable(_))));
    switch.fail(false);
    conforms(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_too_far_behind_is_told_to_scan() {
    let store = Memory::default();
    for n in 0..9000 {
        store.commit(put("a", &n.to_string())).await.expect("committed");
    }
    assert!(matches!(store.watch(1).await, Err(Error::Compacted(_))));
    assert!(store.watch(8000).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_keep_everything_and_the_folder_small() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = Options { checkpoint_bytes: 4096 };
    let store = Sled::open(dir.path(), options).expect("it opens");
    for n in 0..500 {
        store.commit(put(&format!("k{}", n % 50), &format!("value {n}"))).await.expect("committed");
    }
    let revision = store.commit(put("last", "one")).await.expect("committed");
    drop(store);
    let files: Vec<_> =
        std::fs::read_dir(dir.path()).expect("listed").flatten().map(|e| e.file_name()).collect();
    assert_eq!(files.len(), 3, "one snapshot, one journal, the index: {files:?}");
    let store = Sled::open(dir.path(), options).expect("it opens again");
    assert_eq!(store.scan("").await.expect("readable").len(), 51);
    assert_eq!(value(&store, "k49").await.as_deref(), Some("value 499"));
    assert_eq!(store.get("last").await.expect("readable").expect("there").revision, revision);
    assert_eq!(store.commit(put("more", "")).await.expect("committed"), revision + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_gone_damaged_or_behind_is_made_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let index = dir.path().join("index");
    let fill = async |from: u32| {
        let store = sled(dir.path());
        for n in from..from + 20 {
            store.commit(put(&format!("k{n:03}"), "v")).await.expect("committed");
        }
        store.close().await;
    };
    fill(0).await;
    let old = dir.path().join("old");
    std::fs::rename(&index, &old).expect("moved");
    fill(20).await;
    assert_eq!(sled(dir.path()).scan("k").await.expect("readable").len(), 40, "index deleted");

    std::fs::remove_dir_all(&index).expect("removed");
    std::fs::rename(&old, &index).expect("moved back");
    assert_eq!(sled(dir.path()).scan("k").await.expect("readable").len(), 40, "index behind the journal");

    for damage in [&b"garbage"[..], b""] {
        for entry in std::fs::read_dir(&index).expect("listed").flatten().filter(|e| e.path().is_file()) {
            std::fs::write(entry.path(), damage).expect("damaged");
        }
        assert_eq!(sled(dir.path()).scan("k").await.expect("readable").len(), 40, "{damage:?}");
    }
    std::fs::remove_dir_all(&index).expect("removed");
    std::fs::write(&index, "a file where the folder was").expect("written");
    assert_eq!(sled(dir.path()).scan("k").await.expect("readable").len(), 40, "a file in its place");
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("listed").flatten();
    let below = entries
        .flat_map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { vec![entry.path()] });
    below.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damage_to_the_index_loses_a_record_or_keeps_the_store_from_opening() {
    const PAGE: usize = 4096;
    let dir = tempfile::tempdir().expect("a folder");
    let index = dir.path().join("index");
    let store = sled(dir.path());
    for n in 0..60 {
        store.commit(put(&format!("k{n:03}"), &"v".repeat(3000))).await.expect("committed");
    }
    store.close().await;
    drop(store);
    let whole = tempfile::tempdir().expect("a folder");
    let mut damages: Vec<(std::path::PathBuf, &str, usize)> = Vec::new();
    for file in files(&index) {
        let name = file.strip_prefix(&index).expect("below").to_owned();
        std::fs::create_dir_all(whole.path().join(&name).parent().expect("a parent")).expect("made");
        std::fs::copy(&file, whole.path().join(&name)).expect("kept");
        let pages = std::fs::metadata(&file).expect("a length").len() as usize / PAGE;
        damages.push((name.clone(), "deleted", 0));
        damages.extend([0, pages / 2, pages].map(|page| (name.clone(), "page zeroed", page)));
        damages.extend([0, pages / 3, pages].map(|page| (name.clone(), "tail cut", page)));
    }
    for (name, damage, page) in damages {
        std::fs::remove_dir_all(&index).expect("removed");
        for file in files(whole.path()) {
            let target = index.join(file.strip_prefix(whole.path()).expect("below"));
            std::fs::create_dir_all(target.parent().expect("a parent")).expect("made");
            std::fs::copy(file, target).expect("restored");
        }
        let path = index.join(&name);
        let mut bytes = std::fs::read(&path).expect("read");
        let at = (page * PAGE).min(bytes.len());
        match damage {
            "deleted" => std::fs::remove_file(&path).expect("deleted"),
            "tail cut" => std::fs::write(&path, &bytes[..at]).expect("cut"),
            _ => {
                let end = bytes.len().min(at + PAGE);
                bytes[at..end].fill(0);
                std::fs::write(&path, &bytes).expect("zeroed");
            }
        }
        let store = sled(dir.path());
        assert_eq!(store.scan("k").await.expect("readable").len(), 60, "{name:?}: {damage} at page {page}");
        assert_eq!(value(&store, "k059").await, Some("v".repeat(3000)), "{name:?}: {damage} at page {page}");
        store.commit(put("more", "v")).await.expect("it takes changes");
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_a_lost_snapshot_is_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = sled(dir.path());
    for n in 0..5 {
        store.commit(put(&format!("k{n}"), "v")).await.expect("committed");
    }
    drop(store);
    let journal = dir.path().join(format!("journal-{:020}", 0));
    let mut file = std::fs::OpenOptions::new().append(true).open(&journal).expect("opened");
    file.write_all(b"MJ1\n half a frame").expect("written");
    drop(file);
    let store = sled(dir.path());
    assert_eq!(store.scan("k").await.expect("readable").len(), 5);
    store.commit(put("k5", "v")).await.expect("committed");
    drop(store);
    assert_eq!(sled(dir.path()).scan("k").await.expect("readable").len(), 6);

    std::fs::rename(&journal, dir.path().join(format!("journal-{:020}", 3))).expect("renamed");
    let mut bytes = std::fs::read(dir.path().join(format!("journal-{:020}", 3))).expect("read");
    bytes[12] = 3;
    std::fs::write(dir.path().join(format!("journal-{:020}", 3)), bytes).expect("written");
    let Err(OpenError::Damaged { path, .. }) = Sled::open(dir.path(), Options::default()) else {
        panic!("a journal without its snapshot must not open")
    };
    assert!(path.ends_with(format!("journal-{:020}", 3)), "{path:?}");
}

const CHILD: &str = "MUSTER_TEST_STORE_CHILD";

/// The other half of the test below: writes until it is killed, and says what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_until_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let store =
        Arc::new(Sled::open(Path::new(&dir), Options { checkpoint_bytes: 16 << 10 }).expect("it opens"));
    let start = store.scan("").await.expect("readable").len();
    let writers = (0..8).map(|writer| {
        let store = Arc::clone(&store);
        async move {
            for n in start.. {
                let key = format!("{writer}/{n}");
                store.commit(put(&key, &"x".repeat(100))).await.expect("committed");
                let line = format!("acked {key}\n");
                std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
            }
        }
    });
    futures::future::join_all(writers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_kill_minus_nine() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut acked = Vec::new();
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "--nocapture", "store::conformance::child_that_writes_until_killed"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut count = 0;
        for line in lines.map_while(Result::ok) {
            // The first line may follow the harness's own words on the same line.
            if let Some((_, key)) = line.split_once("acked ") {
                acked.push(key.to_owned());
                count += 1;
            }
            if count == 150 + round * 40 {
                child.kill().expect("killed");
            }
        }
        child.wait().expect("reaped");
        assert!(count > 100, "round {round} wrote {count}");
        let store = sled(dir.path());
        for key in &acked {
            assert!(store.get(key).await.expect("readable").is_some(), "round {round} lost {key}");
        }
    }
}
