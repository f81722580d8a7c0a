//! The link to the controller. The only module that knows gRPC: it turns orders into calls of the supervisor, and what
//! the board shows into messages. When the link is lost, sessions go on.

mod control;
mod host;
mod output;
mod queries;

use std::sync::Arc;

use muster_proto::{
    ids::Incarnation,
    limits::MESSAGE_BYTES,
    metadata,
    v1::{ConnectResponse, worker_service_client::WorkerServiceClient},
};
use muster_runtime::{backoff::Backoff, grpc, shutdown::Shutdown};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::interceptor::InterceptedService,
    transport::Channel,
};

use crate::supervisor::Supervisor;

type Client = WorkerServiceClient<InterceptedService<Channel, grpc::TraceInterceptor>>;

/// Why the link ended for good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UplinkError {
    /// Another process of the same name took over.
    #[error(
        "another worker named {0} has connected; this process leaves, its sessions go on under the other"
    )]
    Replaced(String),
}

/// One worker's link.
pub(crate) struct Uplink {
    supervisor: Arc<Supervisor>,
    incarnation: Incarnation,
    link: Link,
}

/// The way to the controller, and who we are on it. Cheap to clone.
#[derive(Clone)]
struct Link {
    client: Client,
    worker_key: MetadataValue<Ascii>,
    incarnation_key: MetadataValue<Ascii>,
}

impl Link {
    /// A request that says who sends it.
    fn request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        request.metadata_mut().insert(metadata::WORKER, self.worker_key.clone());
        request.metadata_mut().insert(metadata::INCARNATION, self.incarnation_key.clone());
        request
    }
}

impl Uplink {
    pub(crate) fn new(supervisor: Arc<Supervisor>) -> Result<Self, grpc::ConnectError> {
        let config = &supervisor.context().config;
        let channel = grpc::connect(&config.controller)?;
        let client = WorkerServiceClient::with_interceptor(channel, grpc::TraceInterceptor)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let incarnation = Incarnation::generate();
        let ascii = |text: &str| MetadataValue::try_from(text).expect("names and incarnations are ASCII");
        let (worker_key, incarnation_key) = (ascii(config.name.as_str()), ascii(incarnation.as_str()));
        let link = Link { client, worker_key, incarnation_key };
        Ok(Self { supervisor, incarnation, link })
    }

    /// Connects again and again until the shutdown.
    pub(crate) async fn run(&self, shutdown: Shutdown) -> Result<(), UplinkError> {
        let timing = self.supervisor.context().config.timing;
        let mut backoff = Backoff::new(timing.reconnect_first, timing.reconnect_max);
        loop {
            let ended = tokio::select! {
                ended = self.connect_once(&mut backoff) => ended,
                () = shutdown.requested() => return Ok(()),
            };
            if ended.code() == Code::Aborted {
                let name = self.supervisor.context().config.name.to_string();
                return Err(UplinkError::Replaced(name));
            }
            let delay = backoff.next_delay();
            tracing::warn!(error = %ended.message(), code = ?ended.code(), ?delay, "no link to the controller, trying again");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = shutdown.requested() => return Ok(()),
            }
        }
    }

    /// One connection, from Hello to its end. Returns why it ended.
    async fn connect_once(&self, backoff: &mut Backoff) -> Status {
        let opened = match control::open(self).await {
            Ok(opened) => opened,
            Err(status) => return status,
        };
        backoff.reset();
        let welcome = opened.welcome.clone();
        tracing::info!(controller = %welcome.controller_version, "connected to the controller");
        tokio::select! {
            ended = control::serve(self, opened) => ended,
            ended = output::push(self) => ended,
        }
    }
}

/// The controller closed the stream without an error, e.g. because it leaves.
fn closed() -> Status {
    Status::unavailable("the controller closed the stream")
}

/// What a controller that does not keep to the contract is answered.
fn unexpected(message: &ConnectResponse) -> Status {
    Status::internal(format!("the controller began with {message:?} instead of Welcome"))
}
