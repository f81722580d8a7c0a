//! Long calls of gateways.

use muster_proto::{
    error::Error,
    v1::{
        CreateTaskRequest, CreateTaskResponse, GetTaskRequest, GetTaskResponse, TaskState, UpdateTaskRequest,
        UpdateTaskResponse, task_service_server::TaskService,
    },
};
use tonic::{Request, Response, Status};

use super::{Context, peer, recorded::About};

/// Life of a task when nobody says, and the longest, in seconds.
const TTL: u32 = 24 * 3600;
const LONGEST: u32 = 7 * 24 * 3600;
/// Bytes of what is asked, and of what came of it.
const REQUEST: usize = 64 << 10;
const OUTCOME: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub struct Tasks {
    context: Context,
}

impl Tasks {
    pub(super) const fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl TaskService for Tasks {
    async fn create_task(
        &self,
        request: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        let caller = peer::caller(&request)?;
        About::of(&request).set(&request.get_ref().task_id, "");
        let CreateTaskRequest { task_id, request, ttl_seconds } = request.into_inner();
        id(&task_id)?;
        at_most("request", request.len(), REQUEST)?;
        at_most("ttlSeconds", ttl_seconds as usize, LONGEST as usize)?;
        let ttl = if ttl_seconds == 0 { TTL } else { ttl_seconds };
        let task = self.context.tasks.create(&caller, &task_id, request, ttl).await?;
        Ok(Response::new(CreateTaskResponse { task: Some(task) }))
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Result<Response<GetTaskResponse>, Status> {
        let caller = peer::caller(&request)?;
        let task_id = request.into_inner().task_id;
        id(&task_id)?;
        let task = self.context.tasks.get(&caller, &task_id).await?;
        Ok(Response::new(GetTaskResponse { task: Some(task) }))
    }

    async fn update_task(
        &self,
        request: Request<UpdateTaskRequest>,
    ) -> Result<Response<UpdateTaskResponse>, Status> {
        let caller = peer::caller(&request)?;
        About::of(&request).set(&request.get_ref().task_id, request.get_ref().state().as_str_name());
        let state = request.get_ref().state();
        let UpdateTaskRequest { task_id, outcome, .. } = request.into_inner();
        id(&task_id)?;
        at_most("outcome", outcome.len(), OUTCOME)?;
        if state == TaskState::Unspecified {
            return Err(Error::invalid("state", "is none of working, completed, failed and cancelled").into());
        }
        let task = self.context.tasks.update(&caller, &task_id, state, outcome).await?;
        Ok(Response::new(UpdateTaskResponse { task: Some(task) }))
    }
}

fn id(id: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if (16..=64).contains(&id.len()) && id.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::invalid("taskId", "is not 16 to 64 characters of [A-Za-z0-9_-]"))
}

fn at_most(field: &'static str, size: usize, most: usize) -> Result<(), Error> {
    if size <= most {
        return Ok(());
    }
    Err(Error::invalid(field, format!("is {size}, more than the {most} allowed")))
}
