//! Tokens with scopes, gateways that speak for others, sessions that spawn sessions, and long calls.

use muster_controller::{StoreKind, engine::TreeLimits};
use muster_proto::{
    error::{Error, ErrorCode},
    metadata,
    v1::{identity_service_client::IdentityServiceClient, task_service_client::TaskServiceClient, *},
};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{Request, metadata::MetadataValue};

use crate::{
    farm::{Farm, PATIENCE, answer, refused, spec},
    worker::{FakeWorker, hello, project},
};

/// A call with a token, and for somebody.
fn signed<T>(message: T, token: &str, behalf: Option<&Principal>) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        let value = MetadataValue::try_from(format!("Bearer {token}")).expect("ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    if let Some(principal) = behalf {
        let value = MetadataValue::from_bytes(&principal.encode_to_vec());
        request.metadata_mut().insert_bin(metadata::ON_BEHALF_OF, value);
    }
    request
}

fn access(name: &str, role: Role) -> CreateAccessRequest {
    CreateAccessRequest { name: name.into(), role: role.into(), ..CreateAccessRequest::default() }
}

async fn made(farm: &Farm, request: CreateAccessRequest) -> (String, Access) {
    let made = IdentityServiceClient::new(farm.channel()).create_access(request).await;
    let made = answer(made).expect("made");
    (made.token, made.info.expect("what it is"))
}

async fn checked(farm: &Farm, token: &str) -> Result<Principal, Error> {
    let request = CheckAccessRequest { token: token.into() };
    let checked = answer(IdentityServiceClient::new(farm.channel()).check_access(request).await);
    checked.map(|checked| checked.principal.expect("somebody"))
}

async fn spawn(
    farm: &Farm,
    spec: SessionSpec,
    token: &str,
    behalf: Option<&Principal>,
) -> Result<Session, Error> {
    let request = SpawnSessionRequest { spec: Some(spec), request_id: String::new() };
    let spawned = answer(farm.sessions().spawn_session(signed(request, token, behalf)).await);
    spawned.map(|spawned| spawned.session.expect("one"))
}

async fn get(farm: &Farm, session: &str, token: &str, behalf: Option<&Principal>) -> Result<Session, Error> {
    let request = GetSessionRequest { session: session.into() };
    let got = answer(farm.sessions().get_session(signed(request, token, behalf)).await);
    got.map(|got| got.session.expect("one"))
}

async fn memory(change: impl FnOnce(&mut muster_controller::Config)) -> Farm {
    Farm::start_with(|config| {
        config.store = StoreKind::Memory;
        change(config);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_its_scopes_and_trust_is_one_of_them() {
    let farm = memory(|_| {}).await;
    let demo = Project { allow_trust_mode: true, ..project("demo") };
    let _worker = FakeWorker::connect(&farm, Hello { projects: vec![demo], ..hello("w1", 9) }).await;
    let with = |scopes: &[&str]| {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        CreateAccessRequest { scopes, ..access("ann", Role::Operator) }
    };
    let (reader, info) = made(&farm, with(&["read"])).await;
    assert_eq!(info.scopes, ["read"]);
    let (writer, _) = made(&farm, with(&["read", "write"])).await;
    let (all, _) = made(&farm, with(&[])).await;
    refused(spawn(&farm, spec("x"), &reader, None).await, ErrorCode::PermissionDenied);
    let id = spawn(&farm, spec("x"), &writer, None).await.expect("it may").session_id;
    get(&farm, &id, &reader, None).await.expect("it may");
    let trust = SessionSpec { trust_mode: true, ..spec("x") };
    let error = refused(spawn(&farm, trust.clone(), &writer, None).await, ErrorCode::TrustNotAllowed);
    assert_eq!(error.field, "trustMode");
    spawn(&farm, trust, &all, None).await.expect("it may");
    let bad = IdentityServiceClient::new(farm.channel()).create_access(with(&["root"])).await;
    assert_eq!(refused(answer(bad), ErrorCode::InvalidArgument).field, "scopes");
    let principal = checked(&farm, &reader).await.expect("known");
    assert_eq!(
        (principal.name.as_str(), principal.role(), principal.scopes.as_slice()),
        ("ann", Role::Operator, &["read".to_owned()][..])
    );
    refused(checked(&farm, "muster_0123_4567").await, ErrorCode::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_speaks_for_others_and_both_must_be_allowed() {
    let farm = memory(|_| {}).await;
    let projects = vec![project("a"), project("b")];
    let _worker = FakeWorker::connect(&farm, Hello { projects, ..hello("w1", 9) }).await;
    let in_a = || SessionSpec { project: "a".into(), ..spec("x") };
    let (gateway, _) = made(&farm, access("gw", Role::Orchestrator)).await;
    let (ann, info) = made(&farm, access("ann", Role::Orchestrator)).await;
    let ann = checked(&farm, &ann).await.expect("known");
    assert_eq!(ann.access_id, info.id);
    let of_ann = spawn(&farm, in_a(), &gateway, Some(&ann)).await.expect("both may");
    assert_eq!(of_ann.caller, "gw/ann");
    let of_gateway = spawn(&farm, in_a(), &gateway, None).await.expect("it may");
    // The gateway sees what came through it, each of the others its own.
    get(&farm, &of_ann.session_id, &gateway, None).await.expect("through it");
    let ben = Principal { name: "ben".into(), role: Role::Orchestrator.into(), ..Principal::default() };
    let foreign = get(&farm, &of_ann.session_id, &gateway, Some(&ben)).await;
    refused(foreign, ErrorCode::SessionNotFound);
    let foreign = get(&farm, &of_gateway.session_id, &gateway, Some(&ann)).await;
    refused(foreign, ErrorCode::SessionNotFound);
    // Never more than the gateway: neither by role nor by project.
    let root = Principal { name: "root".into(), role: Role::Admin.into(), ..Principal::default() };
    let cordon = CordonWorkerRequest { worker: "w1".into(), reason: String::new() };
    let denied = farm.admin().cordon_worker(signed(cordon, &gateway, Some(&root))).await;
    refused(answer(denied), ErrorCode::PermissionDenied);
    let viewer = Principal { role: Role::Viewer.into(), ..root.clone() };
    refused(spawn(&farm, in_a(), "", Some(&viewer)).await, ErrorCode::PermissionDenied);
    let limited = CreateAccessRequest { projects: vec!["a".into()], ..access("gw", Role::Orchestrator) };
    let (limited, _) = made(&farm, limited).await;
    let far = Principal { projects: vec!["b".into()], ..ben.clone() };
    refused(spawn(&farm, in_a(), &limited, Some(&far)).await, ErrorCode::PermissionDenied);
    // On the controller's own machine the sessions are the principal's.
    assert_eq!(spawn(&farm, in_a(), "", Some(&ben)).await.expect("it may").caller, "ben");
    // An operator speaks for nobody, and what is no principal is named.
    let (operator, _) = made(&farm, access("op", Role::Operator)).await;
    refused(spawn(&farm, in_a(), &operator, Some(&ben)).await, ErrorCode::PermissionDenied);
    for nobody in [
        Principal { name: "local".into(), ..ben.clone() },
        Principal { name: "a/b".into(), ..ben.clone() },
        Principal { role: Role::Worker.into(), ..ben.clone() },
        Principal { scopes: vec!["root".into()], ..ben.clone() },
        Principal { session: "x".into(), ..ben.clone() },
        Principal { access_id: info.id.clone(), ..ben.clone() },
    ] {
        refused(spawn(&farm, in_a(), &gateway, Some(&nobody)).await, ErrorCode::InvalidArgument);
    }
    let over = Principal { expires_at: Some(prost_types::Timestamp::default()), ..ben };
    refused(spawn(&farm, in_a(), &gateway, Some(&over)).await, ErrorCode::Unauthenticated);
    // Who is revoked is nobody behind a gateway either.
    let request = RevokeAccessRequest { id: info.id };
    answer(IdentityServiceClient::new(farm.channel()).revoke_access(request).await).expect("revoked");
    refused(spawn(&farm, in_a(), &gateway, Some(&ann)).await, ErrorCode::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_a_session_reaches_what_is_below_it_and_ends_with_it() {
    let farm = memory(|config| config.tree = TreeLimits { depth: 2, sessions: 4 }).await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let root = farm.spawn("root").await;
    let start = worker.start().await;
    worker.work(&start).await;
    let bound = |session: &str| CreateAccessRequest {
        session: session.into(),
        ..access("nested", Role::Orchestrator)
    };
    let (token, info) = made(&farm, bound(&root.handle)).await;
    assert_eq!(info.session, root.session_id);
    let wrong = CreateAccessRequest { role: Role::Admin.into(), ..bound(&root.handle) };
    let wrong = IdentityServiceClient::new(farm.channel()).create_access(wrong).await;
    assert_eq!(refused(answer(wrong), ErrorCode::InvalidArgument).field, "session");

    let other = farm.spawn("other").await;
    // Whatever it names: its child.
    let asks = SessionSpec { parent_session: other.session_id.clone(), ..spec("child") };
    let child = spawn(&farm, asks, &token, None).await.expect("it may");
    assert_eq!(child.spec.expect("a spec").parent_session, root.session_id);
    get(&farm, &child.session_id, &token, None).await.expect("below it");
    for beside in [&other.session_id, &root.session_id] {
        refused(get(&farm, beside, &token, None).await, ErrorCode::SessionNotFound);
    }
    // The same request again is the same session, also when its parent was forced.
    let again = SpawnSessionRequest {
        spec: Some(SessionSpec { parent_session: "x".into(), ..spec("again") }),
        request_id: "one".into(),
    };
    let first = answer(farm.sessions().spawn_session(signed(again.clone(), &token, None)).await);
    let twice = answer(farm.sessions().spawn_session(signed(again, &token, None)).await);
    assert!(!first.expect("accepted").replayed && twice.expect("accepted").replayed);
    let grandchild = SessionSpec { parent_session: child.session_id.clone(), ..spec("grandchild") };
    let grandchild = spawn(&farm, grandchild, "", None).await.expect("two levels");
    let deeper = SessionSpec { parent_session: grandchild.session_id.clone(), ..spec("deeper") };
    refused(spawn(&farm, deeper, "", None).await, ErrorCode::TreeLimit);
    refused(spawn(&farm, spec("a fifth"), &token, None).await, ErrorCode::TreeLimit);
    farm.stop(&grandchild.session_id).await;
    farm.archive(&grandchild.session_id).await.expect("archived");
    spawn(&farm, spec("room again"), &token, None).await.expect("archived ones do not count");
    let nobody = SessionSpec { parent_session: "nobody".into(), ..spec("x") };
    let error = refused(spawn(&farm, nobody, "", None).await, ErrorCode::SessionNotFound);
    assert_eq!(error.field, "parentSession");

    let watching = signed(WatchSessionsRequest { sessions: Vec::new() }, &token, None);
    let mut watch = farm.sessions().watch_sessions(watching).await.expect("watched").into_inner();
    watch.message().await.expect("it goes on").expect("the first");
    farm.stop(&root.session_id).await;
    worker.end(&root.session_id, 1, EndReason::Stopped, "").await;
    let status = timeout(PATIENCE, async {
        loop {
            if let Err(status) = watch.message().await {
                break status;
            }
        }
    });
    assert_eq!(status.await.expect("it ends in time").code(), tonic::Code::Unauthenticated);
    refused(get(&farm, &child.session_id, &token, None).await, ErrorCode::Unauthenticated);
    refused(checked(&farm, &token).await, ErrorCode::Unauthenticated);
    let late = IdentityServiceClient::new(farm.channel()).create_access(bound(&root.handle)).await;
    refused(answer(late), ErrorCode::SessionEnded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_survives_a_restart_and_is_found_by_its_caller_alone() {
    let mut farm = Farm::start().await;
    let (gateway, _) = made(&farm, access("gw", Role::Orchestrator)).await;
    let ann = Principal { name: "ann".into(), role: Role::Viewer.into(), ..Principal::default() };
    let task_id = "0123456789abcdef-task".to_owned();
    let create = CreateTaskRequest { task_id: task_id.clone(), request: b"wait".to_vec(), ttl_seconds: 0 };
    let client = |farm: &Farm| TaskServiceClient::new(farm.channel());
    let made = client(&farm).create_task(signed(create.clone(), &gateway, Some(&ann))).await;
    let made = answer(made).expect("made").task.expect("one");
    let life = made.expires_at.expect("it ends").seconds - made.changed_at.expect("now").seconds;
    assert_eq!(life, 24 * 3600);
    let bad = [
        (CreateTaskRequest { task_id: "short".into(), ..create.clone() }, "taskId"),
        (CreateTaskRequest { request: vec![0; (64 << 10) + 1], ..create.clone() }, "request"),
        (CreateTaskRequest { ttl_seconds: 7 * 24 * 3600 + 1, ..create.clone() }, "ttlSeconds"),
    ];
    for (request, field) in bad {
        let error = refused(answer(client(&farm).create_task(request).await), ErrorCode::InvalidArgument);
        assert_eq!(error.field, field);
    }
    farm.restart().await;
    let get = GetTaskRequest { task_id: task_id.clone() };
    let found = client(&farm).get_task(signed(get.clone(), &gateway, Some(&ann))).await;
    assert_eq!(answer(found).expect("kept").task.expect("one").request, b"wait");
    for stranger in [signed(get.clone(), &gateway, None), signed(get, "", None)] {
        refused(answer(client(&farm).get_task(stranger).await), ErrorCode::TaskNotFound);
    }
    let mut tasks = client(&farm);
    let mut update = async |state: TaskState, outcome: usize| {
        let outcome = vec![b'x'; outcome];
        let update = UpdateTaskRequest { task_id: task_id.clone(), state: state.into(), outcome };
        answer(tasks.update_task(signed(update, &gateway, Some(&ann))).await)
    };
    let large = refused(update(TaskState::Working, (256 << 10) + 1).await, ErrorCode::InvalidArgument);
    assert_eq!(large.field, "outcome");
    update(TaskState::Completed, 256 << 10).await.expect("noted");
    refused(update(TaskState::Failed, 1).await, ErrorCode::TaskEnded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_makes_as_many_calls_as_are_allowed_and_others_are_not_held_up() {
    // Next to nothing comes back while the test runs.
    let rate = muster_controller::service::Rate { each_second: 1, at_once: 20 };
    let farm = memory(|config| config.rate = rate).await;
    let (ann, _) = made(&farm, access("ann", Role::Viewer)).await;
    let (ben, _) = made(&farm, access("ben", Role::Viewer)).await;
    let who = async |token: &str| {
        let request = signed(WhoAmIRequest {}, token, None);
        answer(IdentityServiceClient::new(farm.channel()).who_am_i(request).await)
    };
    for call in 0..20 {
        who(&ann).await.unwrap_or_else(|error| panic!("call {call}: {error:?}"));
    }
    // Time that passes gives calls back: past the limit is past what came back, too.
    let mut error = None;
    for _ in 0..10_000 {
        if let Err(refused) = who(&ann).await {
            error = Some(refused);
            break;
        }
    }
    let error = error.expect("past the limit");
    assert!(error.code == ErrorCode::LimitReached && error.retryable(), "{error:?}");
    who(&ben).await.expect("he made none");
    for _ in 0..50 {
        who("").await.expect("nobody is kept from the own machine");
    }
}
