//! What operators ask.

use std::time::Duration;

use muster_proto::{
    error::Error,
    ids::WorkerId,
    v1::{
        CordonWorkerRequest, CordonWorkerResponse, DrainWorkerRequest, DrainWorkerResponse,
        ExplainSessionRequest, ExplainSessionResponse, ListWorkersRequest, ListWorkersResponse,
        UncordonWorkerRequest, UncordonWorkerResponse, admin_service_server::AdminService,
    },
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::{Context, leaving, recorded::About, validate};
use crate::engine::Order;

/// Longest wait of one call for a worker to be empty.
const DAY: u32 = 24 * 3600;

/// See the module.
#[derive(Debug)]
pub struct Admin {
    context: Context,
}

impl Admin {
    pub(super) const fn new(context: Context) -> Self {
        Self { context }
    }

    async fn drain(&self, request: DrainWorkerRequest) -> Result<DrainWorkerResponse, Error> {
        let name = worker(&request.worker)?;
        validate::reason(&request.reason)?;
        if request.wait_seconds > DAY {
            let message = format!("is {}, more than the {DAY} allowed", request.wait_seconds);
            return Err(Error::invalid("waitSeconds", message));
        }
        let seconds = u64::from(request.deadline_seconds);
        let deadline = (seconds > 0).then(|| Duration::from_secs(seconds));
        let order = Order::Drain { reason: request.reason, deadline };
        let engine = &self.context.engine;
        let mut worker = engine.maintain(name.clone(), order).await?;
        if worker.running > 0 && request.wait_seconds > 0 {
            let empty = timeout(Duration::from_secs(request.wait_seconds.into()), engine.empty(name.clone()));
            tokio::select! {
                // Out of time is no error: the answer tells that it is not empty.
                waited = empty => drop(waited.map_or(Ok(()), |told| told)?),
                () = self.context.leaving.requested() => return Err(leaving()),
            }
            let workers = engine.workers().await?;
            worker = workers.into_iter().find(|found| found.worker == name.as_str()).unwrap_or(worker);
        }
        let empty = worker.running == 0;
        Ok(DrainWorkerResponse { worker: Some(worker), empty })
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn list_workers(
        &self,
        _request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let mut workers = self.context.engine.workers().await?;
        for worker in &mut workers {
            if let Ok(name) = worker.worker.parse() {
                worker.certificate_expires_at = self.context.identities.certificate_of(&name);
            }
        }
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn explain_session(
        &self,
        request: Request<ExplainSessionRequest>,
    ) -> Result<Response<ExplainSessionResponse>, Status> {
        let context = self.context.seen_by(&request)?;
        Ok(Response::new(context.engine.explain(request.into_inner().session).await?))
    }

    async fn cordon_worker(
        &self,
        request: Request<CordonWorkerRequest>,
    ) -> Result<Response<CordonWorkerResponse>, Status> {
        About::of(&request).set(&request.get_ref().worker, "");
        let CordonWorkerRequest { worker: name, reason } = request.into_inner();
        validate::reason(&reason)?;
        let worker = self.context.engine.maintain(worker(&name)?, Order::Cordon { reason }).await?;
        Ok(Response::new(CordonWorkerResponse { worker: Some(worker) }))
    }

    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        About::of(&request).set(&request.get_ref().worker, "");
        Ok(Response::new(self.drain(request.into_inner()).await?))
    }

    async fn uncordon_worker(
        &self,
        request: Request<UncordonWorkerRequest>,
    ) -> Result<Response<UncordonWorkerResponse>, Status> {
        About::of(&request).set(&request.get_ref().worker, "");
        let name = request.into_inner().worker;
        let worker = self.context.engine.maintain(worker(&name)?, Order::Uncordon).await?;
        Ok(Response::new(UncordonWorkerResponse { worker: Some(worker) }))
    }
}

fn worker(name: &str) -> Result<WorkerId, Error> {
    name.parse().map_err(|error| Error::invalid("worker", format!("{error}")))
}
