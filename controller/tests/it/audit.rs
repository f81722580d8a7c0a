//! What the audit log says, and what it never says.

use muster_proto::{
    error::ErrorCode,
    v1::{audit_service_client::AuditServiceClient, identity_service_client::IdentityServiceClient, *},
};
use prost::Message as _;
use ring::digest::{SHA256, digest};
use tokio::time::timeout;
use tonic::{Request, metadata::MetadataValue};

use crate::{
    farm::{Farm, PATIENCE, answer, refused, spec},
    worker::{FakeWorker, hello},
};

async fn read(farm: &Farm, from_seq: u64, limit: u64) -> Vec<AuditRecord> {
    let request = ReadAuditRequest { from_seq, follow: false, limit };
    let mut stream = answer(AuditServiceClient::new(farm.channel()).read_audit(request).await).expect("read");
    let mut entries = Vec::new();
    while let Some(message) = stream.message().await.expect("it goes on") {
        entries.extend(message.entries);
    }
    let record = |entry: &AuditEntry| AuditRecord::decode(entry.record.as_slice()).expect("a record");
    let records: Vec<_> = entries.iter().map(record).collect();
    for (entry, next) in entries.iter().zip(records.iter().skip(1)) {
        assert_eq!(entry.hash, digest(&SHA256, &entry.record).as_ref());
        assert_eq!(next.previous_hash, entry.hash);
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_and_what_was_denied_is_told_and_no_word_of_a_prompt() {
    let mut farm = Farm::start().await;
    let _worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let create = CreateAccessRequest { name: "ann".into(), role: Role::Viewer.into(), ..Default::default() };
    let made = IdentityServiceClient::new(farm.channel()).create_access(create).await;
    let token = answer(made).expect("made").token;
    let id = farm.spawn("canary-prompt").await.session_id;
    farm.get(&id).await;
    farm.message(&id, "canary-message").await.expect("taken");
    refused(farm.try_spawn(spec(" "), "").await, ErrorCode::InvalidArgument);
    let mut stop = Request::new(StopSessionRequest { session: id.clone(), reason: "canary-reason".into() });
    stop.metadata_mut()
        .insert("authorization", MetadataValue::try_from(format!("Bearer {token}")).expect("ASCII"));
    refused(answer(farm.sessions().stop_session(stop).await), ErrorCode::PermissionDenied);
    farm.stop(&id).await;
    farm.restart().await;
    let records = read(&farm, 0, 0).await;
    let told: Vec<_> = records
        .iter()
        .map(|r| (r.action.as_str(), r.caller.as_str(), r.verdict(), r.code.as_str()))
        .collect();
    use AuditVerdict::{Allowed, Denied, Failed};
    assert_eq!(
        told,
        [
            ("IdentityService/CreateAccess", "local", Allowed, ""),
            ("SessionService/SpawnSession", "local", Allowed, ""),
            ("SessionService/SendInput", "local", Allowed, ""),
            ("SessionService/SpawnSession", "local", Failed, "INVALID_ARGUMENT"),
            ("SessionService/StopSession", "ann", Denied, "PERMISSION_DENIED"),
            ("SessionService/StopSession", "local", Allowed, ""),
        ]
    );
    assert_eq!(records[1].subject, id);
    assert!(records[1].detail.contains("13 bytes, SHA-256 "), "{:?}", records[1]);
    for file in std::fs::read_dir(farm.dir.path().join("state/audit")).expect("its folder") {
        let bytes = std::fs::read(file.expect("an entry").path()).expect("readable");
        let held = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        let secret = token.rsplit('_').next().expect("a secret");
        assert!(!held("canary") && !held(secret), "a text or a secret is in the log");
    }
    assert_eq!(read(&farm, 3, 2).await.iter().map(|record| record.seq).collect::<Vec<_>>(), [3, 4]);
    let past = ReadAuditRequest { from_seq: 99, ..ReadAuditRequest::default() };
    let past = AuditServiceClient::new(farm.channel()).read_audit(past).await;
    refused(answer(past).map(drop), ErrorCode::InvalidCursor);

    // Who follows hears of what comes.
    let follow = ReadAuditRequest { from_seq: 7, follow: true, limit: 1 };
    let mut stream =
        answer(AuditServiceClient::new(farm.channel()).read_audit(follow).await).expect("followed");
    farm.archive(&id).await.map(drop).unwrap_or_default();
    let heard = timeout(PATIENCE, stream.message()).await.expect("in time").expect("goes on").expect("one");
    let record = AuditRecord::decode(heard.entries[0].record.as_slice()).expect("a record");
    assert_eq!((record.seq, record.action.as_str()), (7, "SessionService/ArchiveSession"));
    assert!(stream.message().await.expect("it ends well").is_none(), "as many as it asked for");
}
