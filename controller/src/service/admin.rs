//! What operators ask.

use muster_proto::v1::{
    ExplainSessionRequest, ExplainSessionResponse, ListWorkersRequest, ListWorkersResponse,
    admin_service_server::AdminService,
};
use tonic::{Request, Response, Status};

use super::Context;

/// See the module.
#[derive(Debug)]
pub struct Admin {
    context: Context,
}

impl Admin {
    pub(super) const fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn list_workers(
        &self,
        _request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let workers = self.context.engine.workers().await?;
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn explain_session(
        &self,
        request: Request<ExplainSessionRequest>,
    ) -> Result<Response<ExplainSessionResponse>, Status> {
        Ok(Response::new(self.context.engine.explain(request.into_inner().session).await?))
    }
}
