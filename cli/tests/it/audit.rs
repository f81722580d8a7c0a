//! `muster audit`: records as columns and JSON, followed, and the chain computed anew.

use std::io::{BufRead as _, BufReader};

use muster_proto::v1::{AuditEntry, AuditRecord, AuditVerdict, Role};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    fake_records::Records,
    process::{Role as Process, User},
};

fn digest(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec()
}

fn log(records: u64) -> Vec<AuditEntry> {
    let mut previous: Vec<u8> = Vec::new();
    let entry = |seq| {
        let mut record = AuditRecord {
            seq,
            previous_hash: std::mem::take(&mut previous),
            caller: "gw".into(),
            on_behalf_of: "ada".into(),
            action: "SessionService/StopSession".into(),
            subject: format!("fix-{seq}"),
            ..AuditRecord::default()
        };
        record.set_role(Role::Orchestrator);
        record.set_verdict(AuditVerdict::Allowed);
        let record = record.encode_to_vec();
        previous = digest(&record);
        AuditEntry { hash: previous.clone(), record }
    };
    (1..=records).map(entry).collect()
}

#[test]
fn records_are_columns_and_documents_from_where_one_asks() {
    let (records, user) = (Records::start(), User::new());
    records.state.lock().expect("not poisoned").log = log(5);
    let address = records.address.to_string();
    let run = |args: &[&str]| user.run(&[&["audit"], args, &["--controller", &address]].concat());
    assert_eq!(
        run(&["--since", "2", "--limit", "1"]).stdout,
        "2\t\tallowed\tgw\torchestrator\tada\tSessionService/StopSession\tfix-2\t\t\t\n"
    );
    let lines = run(&["--json", "--since", "4"]).stdout;
    let documents: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((documents.len(), &documents[0]["seq"]), (2, &json!(4)), "{lines}");
    assert_eq!(documents[1]["previousHash"], documents[0]["hash"], "{lines}");
    assert_eq!(run(&["--since", "99"]).code, 2);
}

#[test]
fn a_log_that_was_changed_does_not_verify() {
    let (records, user) = (Records::start(), User::new());
    records.state.lock().expect("not poisoned").log = log(5);
    let address = records.address.to_string();
    let verify =
        |more: &[&str]| user.run(&[&["audit", "--verify"], more, &["--controller", &address]].concat());
    let whole = verify(&[]);
    assert_eq!(whole.code, 0, "{whole:?}");
    let anchor = whole.stdout.lines().nth(1).expect("the last hash").to_owned();
    assert_eq!(verify(&["--known", &anchor]).code, 0);
    let document = verify(&["--json"]).json();
    assert_eq!((&document["records"], &document["lastSeq"]), (&json!(5), &json!(5)));

    {
        let mut state = records.state.lock().expect("not poisoned");
        let mut record = AuditRecord::decode(&*state.log[2].record).expect("reads");
        record.subject = "another".into();
        state.log[2].record = record.encode_to_vec();
    }
    let broken = verify(&[]);
    assert_eq!(broken.code, 1, "{broken:?}");
    assert!(broken.stderr.contains("record 3") && broken.stderr.contains("  hint: "), "{}", broken.stderr);
    // Written anew from there on, it holds by itself, and not against what was kept.
    records.state.lock().expect("not poisoned").log = log(4);
    assert_eq!(verify(&[]).code, 0);
    assert_eq!(verify(&["--known", &anchor]).code, 1);
}

#[test]
fn a_log_is_followed() {
    let (records, user) = (Records::start(), User::new());
    records.state.lock().expect("not poisoned").log = log(3);
    let address = records.address.to_string();
    let mut child =
        user.command(&["audit", "--follow", "--json", "--controller", &address]).spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut follower = Process::new(child, user.path("none"));
    for seq in 1..=3 {
        let line: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
        assert_eq!(line["seq"], seq);
    }
    assert!(follower.runs());
}
