//! Every RPC, called by every role, for a session that is its own and for one that is not.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf, BufMut as _, Bytes};
use futures::StreamExt as _;
use muster_controller::StoreKind;
use muster_proto::{
    error::{Error, ErrorCode},
    metadata,
    v1::{identity_service_client::IdentityServiceClient, *},
};
use prost::Message;
use tokio::time::timeout;
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::Channel,
};

use crate::{
    farm::{Farm, PATIENCE, answer, refused, spec},
    worker::{FakeWorker, hello, project},
};

/// Messages as they are on the wire.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

fn signed<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        let value = MetadataValue::try_from(format!("Bearer {token}")).expect("ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn identity(farm: &Farm) -> IdentityServiceClient<Channel> {
    IdentityServiceClient::new(farm.channel())
}

async fn access(farm: &Farm, name: &str, role: Role, projects: &[&str]) -> (String, Access) {
    let projects = projects.iter().map(|project| (*project).to_owned()).collect();
    let request = CreateAccessRequest {
        name: name.into(),
        role: role.into(),
        projects,
        ttl_seconds: 0,
        ..CreateAccessRequest::default()
    };
    let made = answer(identity(farm).create_access(request).await).expect("made");
    (made.token, made.info.expect("what it is"))
}

/// Calls `rpc` and returns how its first answer is.
async fn call(farm: &Farm, rpc: &str, token: &str, message: Vec<u8>) -> Result<(), Error> {
    let mut client = tonic::client::Grpc::new(farm.channel());
    client.ready().await.expect("it is there");
    let path = format!("/muster.v1.{rpc}").parse().expect("a path");
    let stream = futures::stream::iter([Bytes::from(message)]).chain(futures::stream::pending());
    // Endless streams are answered before they end; one message and the end suits the rest.
    let request =
        if rpc.starts_with("WorkerService") { stream.left_stream() } else { stream.take(1).right_stream() };
    let calling = async {
        let response = client.streaming(signed(request, token), path, Raw).await?;
        response.into_inner().message().await.map(|_| ())
    };
    let done = timeout(PATIENCE, calling).await.unwrap_or_else(|_| panic!("{rpc} does not answer"));
    done.map_err(|status: Status| Error::from_status(&status))
}

/// A request that would do something to `session` of `project`, as far as the RPC is about one.
fn request(rpc: &str, session: &str, project: &str) -> (Vec<u8>, bool) {
    let name = rpc.split('/').nth(1).expect("a method");
    let session = session.to_owned();
    let named = match name {
        "SpawnSession" => {
            let spec = SessionSpec { project: project.into(), ..spec("work") };
            return (
                SpawnSessionRequest { spec: Some(spec), request_id: String::new() }.encode_to_vec(),
                false,
            );
        }
        "SendInput" => SendInputRequest {
            session,
            request_id: String::new(),
            input: Some(send_input_request::Input::Message("more".into())),
        }
        .encode_to_vec(),
        "GetChanges" => {
            GetChangesRequest { session, format: ChangesFormat::Stat.into(), ..Default::default() }
                .encode_to_vec()
        }
        "WatchSessions" => WatchSessionsRequest { sessions: vec![session] }.encode_to_vec(),
        "GetSession" | "StopSession" | "ArchiveSession" | "ReadOutput" | "FetchBundle" | "PushBranch"
        | "ExplainSession" => GetSessionRequest { session }.encode_to_vec(),
        _ => return (Vec::new(), false),
    };
    (named, true)
}

/// `docs/roles.md`: per RPC what each role reaches.
fn table() -> BTreeMap<String, Vec<String>> {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/roles.md")).expect("docs");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(rpc, cells)| {
        let cells = cells.split('|').map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty());
        (rpc.to_owned(), cells.collect())
    })
    .collect()
}

async fn spawned(farm: &Farm, caller: &str, project: &str) -> String {
    let spec = SessionSpec { project: project.into(), ..spec("work") };
    let mut request = Request::new(SpawnSessionRequest { spec: Some(spec), request_id: String::new() });
    request.metadata_mut().insert(metadata::CALLER, caller.parse().expect("ASCII"));
    answer(farm.sessions().spawn_session(request).await).expect("accepted").session.expect("one").session_id
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_answers_every_role_as_the_table_says_for_its_own_and_for_foreign_sessions() {
    let farm = Farm::start_with(|config| config.store = StoreKind::Memory).await;
    let projects = vec![project("mine"), project("theirs")];
    let _worker = FakeWorker::connect(&farm, Hello { projects, ..hello("w1", 1) }).await;
    // Takes the only slot: the others stay queued.
    spawned(&farm, "nobody", "theirs").await;
    let roles = [
        ("ann", Role::Viewer, 0, ("ann", "theirs")),
        ("ben", Role::Operator, 1, ("ben", "theirs")),
        ("cleo", Role::Orchestrator, 2, ("ann", "mine")),
        ("dora", Role::Admin, 4, ("ann", "theirs")),
    ];
    let table = table();
    assert!(table.len() > 20, "{table:?}");
    for (name, role, column, (other, their_project)) in roles {
        let limits: &[&str] = if role == Role::Admin { &[] } else { &["mine"] };
        let (token, _) = access(&farm, name, role, limits).await;
        for (rpc, cells) in &table {
            let own = spawned(&farm, name, "mine").await;
            let foreign = spawned(&farm, other, their_project).await;
            for (session, project, is_own) in [(&own, "mine", true), (&foreign, their_project, false)] {
                let (mut message, names_session) = request(rpc, session, project);
                if rpc.ends_with("CheckAccess") {
                    message = CheckAccessRequest { token: token.clone() }.encode_to_vec();
                }
                let result = call(&farm, rpc, &token, message).await;
                let code = result.as_ref().err().map(|error| error.code);
                let case = format!("{rpc} by {name} for its own: {is_own}: {result:?}");
                match cells[column].as_str() {
                    "-" => assert_eq!(code, Some(ErrorCode::PermissionDenied), "{case}"),
                    "own" if names_session && !is_own => {
                        assert_eq!(code, Some(ErrorCode::SessionNotFound), "{case}");
                    }
                    "own" if rpc.ends_with("SpawnSession") && project == "theirs" => {
                        assert_eq!(code, Some(ErrorCode::ProjectNotFound), "{case}");
                    }
                    "own" | "yes" => {
                        let barred = [
                            ErrorCode::PermissionDenied,
                            ErrorCode::Unauthenticated,
                            ErrorCode::SessionNotFound,
                            ErrorCode::ProjectNotFound,
                        ];
                        assert!(code.is_none_or(|code| !barred.contains(&code)), "{case}");
                    }
                    other => panic!("{rpc}: {other:?} means nothing"),
                }
            }
        }
        for rpc in table.keys() {
            let error = call(&farm, rpc, "muster_0123_4567", Vec::new()).await.expect_err("nobody");
            assert_eq!(error.code, ErrorCode::Unauthenticated, "{rpc}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_watches_prefixes_and_request_ids_tell_nothing_of_foreign_sessions() {
    let mut farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 9)).await;
    let (cleo, info) = access(&farm, "cleo", Role::Orchestrator, &[]).await;
    assert!(info.expires_at.is_some() && info.projects.is_empty());
    let (dan, _) = access(&farm, "dan", Role::Orchestrator, &[]).await;
    let spawn = async |token: &str| {
        let request = SpawnSessionRequest { spec: Some(spec("the same words")), request_id: "one".into() };
        answer(farm.sessions().spawn_session(signed(request, token)).await).expect("accepted")
    };
    let (of_cleo, of_dan) = (spawn(&cleo).await, spawn(&dan).await);
    assert!(!of_dan.replayed, "request ids are the caller's own");
    assert!(spawn(&cleo).await.replayed);
    let (of_cleo, of_dan) = (of_cleo.session.expect("one"), of_dan.session.expect("one"));
    assert_eq!(of_cleo.caller, "cleo");
    let list = ListSessionsRequest::default();
    let seen = answer(farm.sessions().list_sessions(signed(list.clone(), &cleo)).await).expect("listed");
    assert_eq!((seen.total, seen.sessions[0].session_id.as_str()), (1, of_cleo.session_id.as_str()));
    assert_eq!(seen.counts.iter().map(|count| count.count).sum::<u32>(), 1);
    // Both handles begin alike; to each there is only one of them.
    let get = GetSessionRequest { session: "the-same".into() };
    let found = answer(farm.sessions().get_session(signed(get.clone(), &dan)).await).expect("its own");
    assert_eq!(found.session.expect("one").session_id, of_dan.session_id);
    refused(answer(farm.sessions().get_session(get).await), ErrorCode::AmbiguousSession);

    let watching = WatchSessionsRequest { sessions: Vec::new() };
    let mut watch =
        farm.sessions().watch_sessions(signed(watching, &cleo)).await.expect("watched").into_inner();
    let first = watch.message().await.expect("it goes on").expect("the first");
    assert_eq!(first.sessions.len(), 1);
    // What happens to the other is not heard; what happens to the own is.
    farm.stop(&of_dan.session_id).await;
    farm.stop(&of_cleo.session_id).await;
    let change =
        timeout(PATIENCE, watch.message()).await.expect("in time").expect("goes on").expect("a change");
    assert!(change.sessions.iter().all(|session| session.session_id == of_cleo.session_id), "{change:?}");

    // Tokens are kept; who is revoked is nobody, at once.
    farm.restart().await;
    worker = worker.reconnect(&farm, Vec::new()).await;
    drop(worker);
    let who = answer(identity(&farm).who_am_i(signed(WhoAmIRequest {}, &cleo)).await).expect("known");
    assert_eq!((who.name.as_str(), who.role()), ("cleo", Role::Orchestrator));
    let local = answer(identity(&farm).who_am_i(WhoAmIRequest {}).await).expect("known");
    assert_eq!((local.name.as_str(), local.role()), ("local", Role::Admin));
    let watching = WatchSessionsRequest { sessions: Vec::new() };
    let mut watch =
        farm.sessions().watch_sessions(signed(watching, &cleo)).await.expect("watched").into_inner();
    watch.message().await.expect("it goes on").expect("the first");
    answer(identity(&farm).revoke_access(RevokeAccessRequest { id: info.id.clone() }).await)
        .expect("revoked");
    let status = timeout(PATIENCE, async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ends without a word"),
                Err(status) => break status,
            }
        }
    });
    let status = status.await.expect("the open call ends");
    assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
    let list = answer(farm.sessions().list_sessions(signed(list, &cleo)).await);
    refused(list, ErrorCode::Unauthenticated);
    let listed = answer(identity(&farm).list_access(ListAccessRequest {}).await).expect("listed").access;
    assert_eq!(listed.iter().filter(|access| access.revoked).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_access_token_cannot_be_is_named_and_an_open_call_ends_when_its_token_does() {
    let farm = Farm::start_with(|config| config.store = StoreKind::Memory).await;
    let good = CreateAccessRequest { name: "ann".into(), role: Role::Viewer.into(), ..Default::default() };
    let bad = [
        (CreateAccessRequest { name: "local".into(), ..good.clone() }, "name"),
        (CreateAccessRequest { name: "no name".into(), ..good.clone() }, "name"),
        (CreateAccessRequest { role: Role::Worker.into(), ..good.clone() }, "role"),
        (CreateAccessRequest { role: Role::Unspecified.into(), ..good.clone() }, "role"),
        (
            CreateAccessRequest { role: Role::Admin.into(), projects: vec!["x".into()], ..good.clone() },
            "projects",
        ),
        (CreateAccessRequest { ttl_seconds: u32::MAX, ..good.clone() }, "ttlSeconds"),
    ];
    for (request, field) in bad {
        let error = refused(answer(identity(&farm).create_access(request).await), ErrorCode::InvalidArgument);
        assert_eq!(error.field, field);
    }
    let request = RevokeAccessRequest { id: "nobody".into() };
    refused(answer(identity(&farm).revoke_access(request).await), ErrorCode::TokenNotFound);

    let short = CreateAccessRequest { ttl_seconds: 1, ..good };
    let token = answer(identity(&farm).create_access(short).await).expect("made").token;
    let watching = signed(WatchSessionsRequest { sessions: Vec::new() }, &token);
    // On a slow machine the second may be over before the call is made.
    let ended = match farm.sessions().watch_sessions(watching).await {
        Err(status) => status,
        Ok(response) => {
            let mut watch = response.into_inner();
            let ended = async {
                loop {
                    if let Err(status) = watch.message().await {
                        break status;
                    }
                }
            };
            timeout(Duration::from_secs(60), ended).await.expect("it ends with its token")
        }
    };
    assert_eq!(ended.code(), tonic::Code::Unauthenticated);
}
