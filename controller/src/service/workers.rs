//! The worker link: the control stream of a worker.

use std::{pin::Pin, sync::atomic::Ordering, time::Duration};

use futures::Stream;
use muster_proto::{
    PROTOCOL,
    error::{Error, ErrorCode},
    ids::{Incarnation, WorkerId},
    v1::{
        AnswerQueryRequest, AnswerQueryResponse, ConnectRequest, ConnectResponse, Hello, PushOutputRequest,
        PushOutputResponse, Role, Welcome, connect_request, connect_response,
        worker_service_server::WorkerService,
    },
};
use muster_runtime::{grpc, task};
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, info};

use super::{Context, answer, leaving, peer, push, validate};
use crate::{
    engine::{Attach, Attached},
    fleet::link::{self, Closed, Commands, LinkId},
};

/// How long a worker may take for its Hello.
const HELLO_WAIT: Duration = Duration::from_secs(10);

/// Version of the protocol from which on workers know leases.
const LEASES: u32 = 2;
/// How often a worker asks, each half a heartbeat, whether the process before it is gone.
const CLAIMS: u32 = 12;

/// See the module.
#[derive(Debug)]
pub struct Workers {
    context: Context,
}

impl Workers {
    pub(super) const fn new(context: Context) -> Self {
        Self { context }
    }

    fn welcome(&self, protocol: u32) -> ConnectResponse {
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        ConnectResponse {
            body: Some(connect_response::Body::Welcome(Welcome {
                protocol,
                controller_version: env!("CARGO_PKG_VERSION").to_owned(),
                heartbeat_interval_ms: millis(self.context.heartbeat_interval),
                unreachable_after_ms: millis(self.context.unreachable_after),
                lease_ms: if protocol >= LEASES { millis(self.context.lease) } else { 0 },
            })),
        }
    }
}

impl Workers {
    /// Links a worker, once it is clear that it is the only one.
    async fn attach(
        &self,
        worker: &WorkerId,
        incarnation: &Incarnation,
        hello: &Hello,
        protocol: u32,
        id: LinkId,
    ) -> Result<(Vec<ConnectResponse>, Commands), Status> {
        for _ in 0..CLAIMS {
            let (link, commands) = link::open(id);
            let attach = Attach {
                worker: worker.clone(),
                incarnation: incarnation.clone(),
                hello: hello.clone(),
                protocol,
                link,
            };
            match self.context.engine.attach(attach).await? {
                Attached::Linked(first) => return Ok((first, commands)),
                Attached::Wait => tokio::select! {
                    () = sleep(self.context.heartbeat_interval / 2) => {}
                    () = self.context.leaving.requested() => return Err(leaving().into()),
                },
            }
        }
        Err(Status::unavailable("another process of this worker was heard a moment ago; connect again"))
    }
}

#[tonic::async_trait]
impl WorkerService for Workers {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<ConnectResponse, Status>> + Send>>;
    type PushOutputStream = Pin<Box<dyn Stream<Item = Result<PushOutputResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        if self.context.leaving.is_requested() {
            return Err(leaving().into());
        }
        let span = tracing::info_span!("worker.link", worker.id = tracing::field::Empty);
        grpc::set_parent(&span, request.metadata());
        let principal = peer::principal(&request)?;
        let (metadata, extensions, mut incoming) = request.into_parts();
        let mut hello = first(&mut incoming).await?;
        let protocol = agree(&hello)?;
        let (worker, incarnation) = validate::hello(&hello)?;
        peer::is_itself(&Request::from_parts(metadata, extensions, ()), &worker)?;
        if principal.role == Role::Worker {
            // What it was given when it joined counts, whatever it says of itself.
            hello.labels.extend(self.context.identities.labels_of(&worker));
        }
        span.record("worker.id", worker.as_str());
        let id = self.context.links.fetch_add(1, Ordering::Relaxed);
        let (mut first, commands) = self.attach(&worker, &incarnation, &hello, protocol, id).await?;
        first.insert(0, self.welcome(protocol));
        let reports = listen(self.context.clone(), incoming, worker, id, commands.watch());
        task::spawn("worker link", reports.instrument(span)).detach();
        Ok(Response::new(Box::pin(commands.stream(first))))
    }

    async fn push_output(
        &self,
        request: Request<Streaming<PushOutputRequest>>,
    ) -> Result<Response<Self::PushOutputStream>, Status> {
        Ok(Response::new(push::open(&self.context, request).await?))
    }

    async fn answer_query(
        &self,
        request: Request<Streaming<AnswerQueryRequest>>,
    ) -> Result<Response<AnswerQueryResponse>, Status> {
        Ok(Response::new(answer::take(&self.context, request).await?))
    }
}

async fn first(incoming: &mut Streaming<ConnectRequest>) -> Result<Hello, Status> {
    let message = timeout(HELLO_WAIT, incoming.message()).await;
    match message.map_err(|_| Error::invalid("hello", "no Hello came in time"))?? {
        Some(ConnectRequest { body: Some(connect_request::Body::Hello(hello)) }) => Ok(hello),
        _ => Err(Error::invalid("hello", "the first message is no Hello").into()),
    }
}

/// The newest protocol version both speak.
fn agree(hello: &Hello) -> Result<u32, Error> {
    let theirs = hello.protocol.unwrap_or_default();
    let newest = theirs.max.min(PROTOCOL.max);
    if newest >= theirs.min.max(PROTOCOL.min) {
        return Ok(newest);
    }
    let message = format!(
        "the worker speaks protocol {} to {}, this controller {} to {}",
        theirs.min, theirs.max, PROTOCOL.min, PROTOCOL.max
    );
    Err(Error::new(ErrorCode::VersionMismatch, message).hint("Upgrade the older of the two."))
}

/// Hands on what the worker says until its stream ends or the link is closed.
async fn listen(
    context: Context,
    mut incoming: Streaming<ConnectRequest>,
    worker: WorkerId,
    link: LinkId,
    mut closed: Closed,
) {
    let why = loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            why = closed.closed() => break format!("closed: {why:?}"),
        };
        match message {
            Ok(Some(ConnectRequest { body })) => match body {
                Some(connect_request::Body::Event(event)) => {
                    context.engine.event(worker.clone(), link, event).await;
                }
                Some(connect_request::Body::Heartbeat(heartbeat)) => {
                    context.engine.heartbeat(worker.clone(), link, heartbeat).await;
                }
                // A second Hello makes no sense; what this build does not know is for a newer one.
                Some(connect_request::Body::Hello(_)) | None => {
                    info!("a message that is not understood is ignored");
                }
            },
            Ok(None) => break "the worker ended it".to_owned(),
            Err(status) => break status.message().to_owned(),
        }
    };
    info!(worker.id = %worker, reason = why, "a worker link ended");
    context.engine.detach(worker, link).await;
}
