//! The gRPC face of the controller: checks what comes in, asks the engine, shapes what goes out. Decides
//! nothing.

mod admin;
mod answer;
mod audit;
mod changes;
mod fit;
mod gate;
mod identity;
mod peer;
mod policy;
mod projects;
mod push;
mod rate;
mod read;
mod recorded;
mod sessions;
mod tasks;
mod validate;
mod workers;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use muster_proto::{
    error::{Error, ErrorCode},
    limits,
    v1::{
        FILE_DESCRIPTOR_SET, admin_service_server::AdminServiceServer,
        audit_service_server::AuditServiceServer, identity_service_server::IdentityServiceServer,
        project_service_server::ProjectServiceServer, session_service_server::SessionServiceServer,
        task_service_server::TaskServiceServer, worker_service_server::WorkerServiceServer,
    },
};
use muster_runtime::{
    grpc,
    metrics::rpc::{CallDuration, Methods},
    shutdown::Shutdown,
};
use tonic::{Request, transport::server::Router};
use tower::layer::util::{Identity, Stack};

use crate::{
    audit::Audit, engine::Handle, fleet::queries::Queries, identity::Identities, output::Replicas,
    tasks::Tasks,
};
pub use answer::Part;
pub use gate::GateLayer;
pub use rate::Rate;

/// Calls of one connection at a time: a gateway holds one per wait. Past it a caller's calls queue at the
/// caller.
const STREAMS: u32 = 4096;
/// Bytes in flight of one upload and of one connection: output comes in chunks of 64 KiB.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes of headers of one call.
const HEADERS: u32 = 32 << 10;

/// What every service needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The engine.
    pub engine: Handle,
    /// Output.
    pub replicas: Replicas,
    /// Who is known.
    pub identities: Identities,
    /// What was done.
    pub audit: Audit,
    /// How many calls one caller may make.
    pub rate: Rate,
    /// Long calls of gateways.
    pub tasks: Tasks,
    /// Where other machines reach this controller, `host:port`.
    pub remote_address: Option<String>,
    /// Questions to workers.
    pub queries: Queries<Part>,
    /// The process leaves: streams end.
    pub leaving: Shutdown,
    /// Told to workers in Welcome.
    pub heartbeat_interval: Duration,
    /// Told to workers in Welcome.
    pub unreachable_after: Duration,
    /// Told to workers in Welcome; zero: none.
    pub lease: Duration,
    /// Number of the next link.
    pub links: Arc<AtomicU64>,
}

impl Context {
    /// As the caller of `request` sees it.
    fn seen_by<T>(&self, request: &Request<T>) -> Result<Self, Error> {
        let engine = self.engine.scoped(peer::principal(request)?.scope());
        Ok(Self { engine, ..self.clone() })
    }
}

/// Why the services could not be put together.
#[derive(Debug, thiserror::Error)]
#[error("reflection cannot be served: {0}")]
pub struct BuildError(#[from] tonic_reflection::server::Error);

/// Every service, behind the gate.
pub type Gated = Router<Stack<GateLayer, Stack<CallDuration, Identity>>>;

/// Every service on one router, behind the gate.
///
/// # Errors
/// When the embedded descriptors are not readable, which a build makes sure of.
pub async fn router(context: Context) -> Result<Gated, BuildError> {
    let gate = GateLayer {
        identities: context.identities.clone(),
        engine: context.engine.clone(),
        audit: context.audit.clone(),
        buckets: rate::Buckets::new(context.rate),
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    macro_rules! limited {
        ($service:ident, $implementation:expr) => {
            $service::new($implementation)
                .max_decoding_message_size(limits::MESSAGE_BYTES)
                .max_encoding_message_size(limits::MESSAGE_BYTES)
        };
    }
    let sessions = limited!(SessionServiceServer, sessions::Sessions::new(context.clone()));
    let workers = limited!(WorkerServiceServer, workers::Workers::new(context.clone()));
    let identity = limited!(IdentityServiceServer, identity::Identity::new(context.clone()));
    let reader = limited!(AuditServiceServer, audit::Reader::new(context.clone()));
    let projects = limited!(ProjectServiceServer, projects::Projects::new(context.clone()));
    let tasks = limited!(TaskServiceServer, tasks::Tasks::new(context.clone()));
    let admin = limited!(AdminServiceServer, admin::Admin::new(context));
    health.set_serving::<SessionServiceServer<sessions::Sessions>>().await;
    health.set_serving::<WorkerServiceServer<workers::Workers>>().await;
    health.set_serving::<AdminServiceServer<admin::Admin>>().await;
    health.set_serving::<IdentityServiceServer<identity::Identity>>().await;
    health.set_serving::<ProjectServiceServer<projects::Projects>>().await;
    health.set_serving::<TaskServiceServer<tasks::Tasks>>().await;
    let server = grpc::server()
        .layer(CallDuration::server(Methods::of_descriptors(FILE_DESCRIPTOR_SET)))
        .layer(gate)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS);
    let mut server = server;
    Ok(server
        .add_service(health_service)
        .add_service(reflection)
        .add_service(sessions)
        .add_service(workers)
        .add_service(identity)
        .add_service(tasks)
        .add_service(projects)
        .add_service(reader)
        .add_service(admin))
}

/// What open streams end with when the process leaves.
fn leaving() -> Error {
    Error::new(ErrorCode::ControllerUnavailable, "the controller is shutting down").hint("Try again.")
}
