//! The link to the controller. The only module that knows gRPC: it turns orders into calls of the supervisor, and what
//! the board shows into messages. When the link is lost, sessions go on.

mod control;
mod host;
mod output;
mod queries;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use muster_proto::{
    error::{Error, ErrorCode},
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

use crate::{
    join::{self, Member},
    supervisor::Supervisor,
};

type Client = WorkerServiceClient<InterceptedService<Channel, grpc::TraceInterceptor>>;

/// How long somebody who reads the log is not told once more what only they can mend.
const TELL_AGAIN: Duration = Duration::from_secs(60);

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

/// How the controller is reached.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// Without TLS, on this machine.
    Local(Channel),
    /// As the worker this machine became.
    Joined(Arc<Member>),
}

/// The way to the controller, and who we are on it. Cheap to clone.
#[derive(Clone)]
struct Link {
    way: Way,
    worker_key: MetadataValue<Ascii>,
    incarnation_key: MetadataValue<Ascii>,
}

impl Link {
    /// For new calls: with the newest certificate.
    fn client(&self) -> Client {
        let channel = match &self.way {
            Way::Local(channel) => channel.clone(),
            Way::Joined(member) => member.channel(),
        };
        WorkerServiceClient::with_interceptor(channel, grpc::TraceInterceptor)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    /// A request that says who sends it.
    fn request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        request.metadata_mut().insert(metadata::WORKER, self.worker_key.clone());
        request.metadata_mut().insert(metadata::INCARNATION, self.incarnation_key.clone());
        request
    }
}

impl Uplink {
    pub(crate) fn new(supervisor: Arc<Supervisor>, way: Way) -> Self {
        let incarnation = Incarnation::generate();
        let ascii = |text: &str| MetadataValue::try_from(text).expect("names and incarnations are ASCII");
        let name = supervisor.context().config.name.clone();
        let (worker_key, incarnation_key) = (ascii(name.as_str()), ascii(incarnation.as_str()));
        let link = Link { way, worker_key, incarnation_key };
        Self { supervisor, incarnation, link }
    }

    /// Connects again and again until the shutdown, and keeps the certificate young meanwhile.
    pub(crate) async fn run(&self, shutdown: Shutdown) -> Result<(), UplinkError> {
        let renewing = async {
            match &self.link.way {
                Way::Local(_) => std::future::pending().await,
                Way::Joined(member) => member.keep_renewing().await,
            }
        };
        tokio::select! {
            ended = self.connect_for_ever() => Err(ended),
            () = renewing => Ok(()),
            () = shutdown.requested() => Ok(()),
        }
    }

    async fn connect_for_ever(&self) -> UplinkError {
        let timing = self.supervisor.context().config.timing;
        let mut backoff = Backoff::new(timing.reconnect_first, timing.reconnect_max);
        let mut told: Option<Instant> = None;
        loop {
            let ended = self.connect_once(&mut backoff).await;
            crate::metrics::link_ended(ended.code());
            if ended.code() == Code::Aborted {
                return UplinkError::Replaced(self.supervisor.context().config.name.to_string());
            }
            let mut delay = backoff.next_delay();
            if Error::from_status(&ended).code == ErrorCode::DuplicateWorker {
                // Somebody has to look after it; asking often would keep the other one from being told apart.
                delay = delay.max(timing.duplicate_retry);
                tracing::error!(error = %ended.message(), ?delay,
                    "another process shows the identity of this worker, perhaps a copy of this machine; sessions go on here,                      and nothing new is taken until one of the two is gone, or an operator revoked the worker and it joined again");
            } else if let Some(hint) = join::unwelcome(&ended) {
                delay = delay.max(timing.reconnect_max);
                let again = told.is_some_and(|at| at.elapsed() < TELL_AGAIN);
                if !again {
                    told = Some(Instant::now());
                    tracing::error!(error = %ended.message(), hint, "the controller does not take this worker; its sessions go on");
                }
            } else {
                tracing::warn!(error = %ended.message(), code = ?ended.code(), ?delay, "no link to the controller, trying again");
            }
            tokio::time::sleep(delay).await;
            if let Way::Joined(member) = &self.link.way {
                member.reload();
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
        let at = match &self.link.way {
            Way::Local(_) => self.supervisor.context().config.controller.to_string(),
            Way::Joined(member) => member.address(),
        };
        tracing::info!(at, controller = %welcome.controller_version, "connected to the controller");
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
