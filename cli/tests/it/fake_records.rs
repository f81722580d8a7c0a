//! Declared projects and an audit log, behind real gRPC, in memory: for the verbs that show and change them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::{Stream, StreamExt as _, stream};
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        AuditEntry, DeclaredProject, GetProjectRequest, GetProjectResponse, ListProjectsRequest,
        ListProjectsResponse, PutProjectRequest, PutProjectResponse, ReadAuditRequest, ReadAuditResponse,
        RemoveProjectRequest, RemoveProjectResponse,
        audit_service_server::{AuditService, AuditServiceServer},
        project_service_server::{ProjectService, ProjectServiceServer},
    },
};
use tonic::{Request, Response, Status};

#[derive(Default)]
pub struct State {
    pub projects: BTreeMap<String, DeclaredProject>,
    pub log: Vec<AuditEntry>,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<State>>);

/// Serves until dropped.
pub struct Records {
    pub state: Arc<Mutex<State>>,
    pub address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Records {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("its address");
        let fake = Fake(Arc::clone(&state));
        runtime.block_on(async {
            muster_runtime::task::spawn("fake records", async move {
                muster_runtime::grpc::server()
                    .add_service(ProjectServiceServer::new(fake.clone()))
                    .add_service(AuditServiceServer::new(fake))
                    .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
                    .await
                    .expect("it serves");
            })
            .detach();
        });
        Self { state, address, _runtime: runtime }
    }
}

fn unknown(name: &str) -> Status {
    Error::new(ErrorCode::ProjectNotFound, format!("no project {name:?} is declared")).into()
}

#[async_trait::async_trait]
impl ProjectService for Fake {
    async fn put_project(
        &self,
        request: Request<PutProjectRequest>,
    ) -> Result<Response<PutProjectResponse>, Status> {
        let request = request.into_inner();
        let policy = request.policy.ok_or_else(|| Error::invalid("policy", "is missing"))?;
        let mut state = self.0.lock().expect("not poisoned");
        let revision = state.projects.get(&policy.name).map_or(0, |project| project.revision);
        if request.if_revision != 0 && request.if_revision != revision {
            return Err(Error::new(ErrorCode::RequestIdConflict, "somebody else changed it").into());
        }
        let project = DeclaredProject {
            policy: Some(policy.clone()),
            changed_by: "local".into(),
            revision: revision + 1,
            ..DeclaredProject::default()
        };
        let replaced = state.projects.insert(policy.name, project.clone()).is_some();
        Ok(Response::new(PutProjectResponse { project: Some(project), replaced }))
    }

    async fn get_project(
        &self,
        request: Request<GetProjectRequest>,
    ) -> Result<Response<GetProjectResponse>, Status> {
        let name = request.into_inner().name;
        let project = self.0.lock().expect("not poisoned").projects.get(&name).cloned();
        project.map_or_else(
            || Err(unknown(&name)),
            |project| Ok(Response::new(GetProjectResponse { project: Some(project) })),
        )
    }

    async fn list_projects(
        &self,
        _request: Request<ListProjectsRequest>,
    ) -> Result<Response<ListProjectsResponse>, Status> {
        let projects = self.0.lock().expect("not poisoned").projects.values().cloned().collect();
        Ok(Response::new(ListProjectsResponse { projects }))
    }

    async fn remove_project(
        &self,
        request: Request<RemoveProjectRequest>,
    ) -> Result<Response<RemoveProjectResponse>, Status> {
        let name = request.into_inner().name;
        let removed = self.0.lock().expect("not poisoned").projects.remove(&name);
        removed.map_or_else(|| Err(unknown(&name)), |_| Ok(Response::new(RemoveProjectResponse {})))
    }
}

#[async_trait::async_trait]
impl AuditService for Fake {
    type ReadAuditStream = Pin<Box<dyn Stream<Item = Result<ReadAuditResponse, Status>> + Send>>;

    async fn read_audit(
        &self,
        request: Request<ReadAuditRequest>,
    ) -> Result<Response<Self::ReadAuditStream>, Status> {
        let request = request.into_inner();
        let from = usize::try_from(request.from_seq.max(1) - 1).expect("small");
        let log = self.0.lock().expect("not poisoned").log.clone();
        if from > log.len() {
            return Err(Error::new(ErrorCode::InvalidCursor, "past the end").into());
        }
        let parts: Vec<_> =
            log[from..].chunks(2).map(|part| Ok(ReadAuditResponse { entries: part.to_vec() })).collect();
        let known = stream::iter(parts);
        Ok(Response::new(if request.follow { known.chain(stream::pending()).boxed() } else { known.boxed() }))
    }
}
