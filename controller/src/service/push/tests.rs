//! Output whose sync fails, from the stream down to the disk.

use std::sync::atomic::AtomicU64;

use bytes::Bytes;

use muster_proto::{
    PROTOCOL,
    ids::Incarnation,
    metadata,
    v1::{
        Capacity, ConnectRequest, Hello, OutputOpen, Project, SessionSpec, SessionStatus, connect_request,
        connect_response::Body as Command, worker_service_client::WorkerServiceClient,
    },
};
use muster_runtime::{grpc, shutdown::Shutdown};
use tokio::{net::TcpListener, time::timeout};
use tonic::{
    metadata::MetadataValue,
    transport::{Channel, server::TcpIncoming},
};

use super::*;
use crate::{
    disk::faulty::{Faults, FaultyDisk},
    engine::{self, SpawnRequest},
    fleet::queries::{PATIENCE, Queries},
    identity::Identities,
    output::Replicas,
    service::router,
    store::memory::Memory,
};

const LONG: Duration = Duration::from_secs(60);

/// A controller whose output disk fails on demand.
struct Rig {
    _dir: tempfile::TempDir,
    disk: FaultyDisk,
    context: Context,
    client: WorkerServiceClient<Channel>,
    incarnation: String,
}

impl Rig {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = FaultyDisk::default();
        let replicas = Replicas::open_on(dir.path(), Arc::new(disk.clone())).expect("opened");
        let config = engine::Config {
            tick: Duration::from_secs(1),
            unreachable_after: Duration::from_secs(3600),
            ..engine::Config::default()
        };
        let store: crate::store::Shared = Arc::new(Memory::default());
        let (engine, running) =
            engine::start(config, Arc::clone(&store), replicas.clone(), Shutdown::new(), Shutdown::new())
                .await
                .expect("started");
        running.detach();
        let identities = Identities::open(dir.path(), Arc::clone(&store), LONG).await.expect("opened");
        let context = Context {
            engine,
            identities,
            rate: super::super::Rate::default(),
            audit: crate::audit::Audit::open(&dir.path().join("audit")).expect("opened"),
            tasks: crate::tasks::Tasks::open(store).await.expect("opened"),
            remote_address: None,
            replicas,
            queries: Queries::new(PATIENCE),
            leaving: Shutdown::new(),
            heartbeat_interval: Duration::from_secs(1),
            unreachable_after: Duration::from_secs(3600),
            lease: Duration::ZERO,
            links: Arc::new(AtomicU64::new(1)),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}", listener.local_addr().expect("bound"));
        let router = router(context.clone()).await.expect("built");
        let serving = router.serve_with_incoming(TcpIncoming::from(listener));
        task::spawn("serve", async move { drop(serving.await) }).detach();
        let client = WorkerServiceClient::new(grpc::connect(&uri).expect("a channel"));
        let incarnation = Incarnation::generate().to_string();
        Self { _dir: dir, disk, context, client, incarnation }
    }

    /// A worker that was given a session; the link stays while the sender does.
    async fn worker(&mut self) -> (mpsc::Sender<ConnectRequest>, String) {
        let (up, stream) = mpsc::channel(8);
        let hello = Hello {
            worker: "w1".into(),
            incarnation: self.incarnation.clone(),
            protocol: Some(PROTOCOL),
            capacity: Some(Capacity { slots: 1, ..Capacity::default() }),
            projects: vec![Project { name: "demo".into(), ..Project::default() }],
            ..Hello::default()
        };
        let first = ConnectRequest { body: Some(connect_request::Body::Hello(hello)) };
        up.send(first).await.expect("room");
        let mut down = self.client.connect(ReceiverStream::new(stream)).await.expect("linked").into_inner();
        let spec = SessionSpec { prompt: "print".into(), ..SessionSpec::default() };
        let request = SpawnRequest {
            spec,
            request_id: String::new(),
            traceparent: String::new(),
            caller: "somebody".into(),
        };
        let (session, _) = self.context.engine.spawn(request).await.expect("accepted");
        loop {
            let message = timeout(LONG, down.message()).await.expect("in time").expect("it holds");
            if let Some(Command::Start(start)) = message.expect("it goes on").body {
                assert_eq!(start.session_id, session.session_id);
                break;
            }
        }
        task::spawn("drain", async move { while let Ok(Some(_)) = down.message().await {} }).detach();
        (up, session.session_id)
    }

    /// Opens the session on a stream of its own and sends `data` from where it is told. Returns that place
    /// and what was acknowledged until the stream ended, or until all of it was.
    async fn push(&mut self, session: &str, data: &[u8]) -> (u64, u64, Option<Status>) {
        let (up, stream) = mpsc::channel(8);
        let mut request = Request::new(ReceiverStream::new(stream));
        let text = |value: &str| MetadataValue::try_from(value).expect("ASCII");
        request.metadata_mut().insert(metadata::WORKER, text("w1"));
        request.metadata_mut().insert(metadata::INCARNATION, text(&self.incarnation));
        let open = OutputOpen { session_id: session.to_owned(), attempt: 1 };
        let body = push_output_request::Body::Open(open);
        up.send(PushOutputRequest { body: Some(body) }).await.expect("room");
        let mut down = self.client.push_output(request).await.expect("open").into_inner();
        let (mut position, mut acked) = (None, 0);
        loop {
            match timeout(LONG, down.message()).await.expect("in time") {
                Ok(Some(PushOutputResponse { body: Some(Body::Position(at)) })) => {
                    position.get_or_insert(at.offset);
                    let data = Bytes::copy_from_slice(&data[at.offset as usize..]);
                    let chunk = OutputChunk { session_id: session.to_owned(), offset: at.offset, data };
                    let body = push_output_request::Body::Chunk(chunk);
                    // A stream that has ended by now says so below.
                    let _ = up.send(PushOutputRequest { body: Some(body) }).await;
                }
                Ok(Some(PushOutputResponse { body: Some(Body::Ack(ack)) })) => {
                    acked = acked.max(ack.offset);
                    if acked == data.len() as u64 {
                        return (position.unwrap_or_default(), acked, None);
                    }
                }
                Ok(Some(other)) => panic!("{other:?}"),
                Ok(None) => return (position.unwrap_or_default(), acked, None),
                Err(status) => return (position.unwrap_or_default(), acked, Some(status)),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_synced_is_not_acknowledged_and_comes_again() {
    let mut rig = Rig::start().await;
    let (_link, session) = rig.worker().await;
    let data: Vec<u8> = (0..50_000u32).map(|at| (at % 251) as u8).collect();
    assert_eq!(rig.push(&session, &data[..10_000]).await.1, 10_000);
    let broken = [
        Faults { sync: true, ..Faults::default() },
        Faults { write: true, ..Faults::default() },
        Faults { sync: true, write: true, ..Faults::default() },
    ];
    for faults in broken {
        let before = rig.disk.failed();
        rig.disk.fail(faults);
        let (position, acked, status) = rig.push(&session, &data).await;
        assert!(rig.disk.failed() > before, "nothing failed: {faults:?}");
        assert_eq!((position, acked.max(10_000)), (10_000, 10_000), "{faults:?}");
        assert_eq!(status.expect("it ends").code(), tonic::Code::Unavailable);
        let seen = rig.context.engine.get(session.clone()).await.expect("it is there");
        assert_eq!((seen.status(), seen.output_end_offset), (SessionStatus::Starting, 10_000));
    }
    rig.disk.fail(Faults::default());
    let (position, acked, _) = rig.push(&session, &data).await;
    assert_eq!((position, acked), (10_000, 50_000));
    let id: SessionId = session.parse().expect("an id");
    assert!(rig.context.replicas.of(id).read(0, usize::MAX).expect("readable") == data);
}
