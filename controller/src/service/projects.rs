//! Declared projects.

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        GetProjectRequest, GetProjectResponse, ListProjectsRequest, ListProjectsResponse, PutProjectRequest,
        PutProjectResponse, RemoveProjectRequest, RemoveProjectResponse,
        project_service_server::ProjectService,
    },
};
use tonic::{Request, Response, Status};

use super::{Context, peer, policy, recorded::About};

/// See the module.
#[derive(Debug)]
pub struct Projects {
    context: Context,
}

impl Projects {
    pub(super) const fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl ProjectService for Projects {
    async fn put_project(
        &self,
        request: Request<PutProjectRequest>,
    ) -> Result<Response<PutProjectResponse>, Status> {
        let caller = peer::caller(&request)?;
        let about = About::of(&request);
        let PutProjectRequest { policy: wanted, if_revision } = request.into_inner();
        let wanted = wanted.ok_or_else(|| Error::invalid("policy", "is not given"))?;
        about.set(&wanted.name, format!("if at revision {if_revision}"));
        policy::policy(&wanted)?;
        let (project, replaced) = self.context.engine.put_project(wanted, if_revision, caller).await?;
        Ok(Response::new(PutProjectResponse { project: Some(project), replaced }))
    }

    async fn get_project(
        &self,
        request: Request<GetProjectRequest>,
    ) -> Result<Response<GetProjectResponse>, Status> {
        let context = self.context.seen_by(&request)?;
        let name = request.into_inner().name;
        policy::name(&name)?;
        let found = context.engine.projects().await?.into_iter();
        let mut found =
            found.filter(|project| project.policy.as_ref().is_some_and(|policy| policy.name == name));
        let project = found.next().ok_or_else(|| {
            let message = format!("no project {name} is declared");
            Error { field: "name".to_owned(), ..Error::new(ErrorCode::ProjectNotFound, message) }
        })?;
        Ok(Response::new(GetProjectResponse { project: Some(project) }))
    }

    async fn list_projects(
        &self,
        request: Request<ListProjectsRequest>,
    ) -> Result<Response<ListProjectsResponse>, Status> {
        let projects = self.context.seen_by(&request)?.engine.projects().await?;
        Ok(Response::new(ListProjectsResponse { projects }))
    }

    async fn remove_project(
        &self,
        request: Request<RemoveProjectRequest>,
    ) -> Result<Response<RemoveProjectResponse>, Status> {
        let about = About::of(&request);
        let name = request.into_inner().name;
        about.set(&name, "");
        policy::name(&name)?;
        self.context.engine.remove_project(name).await?;
        Ok(Response::new(RemoveProjectResponse {}))
    }
}
