//! Tasks of gateways, as the controller keeps them.

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        CreateTaskRequest, CreateTaskResponse, GetTaskRequest, GetTaskResponse, Task, TaskState,
        UpdateTaskRequest, UpdateTaskResponse, task_service_server::TaskService,
    },
};
use tonic::{Request, Response, Status};

use super::Fake;

fn not_found() -> Status {
    Error::new(ErrorCode::TaskNotFound, "there is no such task").into()
}

#[async_trait::async_trait]
impl TaskService for Fake {
    async fn create_task(
        &self,
        request: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        let caller = self.enter(&request)?;
        let request = request.into_inner();
        if self.state().no_tasks {
            return Err(Status::unimplemented("an older controller"));
        }
        let now = muster_proto::time::now();
        let task = Task {
            task_id: request.task_id.clone(),
            request: request.request,
            state: TaskState::Working.into(),
            created_at: Some(now),
            changed_at: Some(now),
            expires_at: Some(prost_types::Timestamp {
                seconds: now.seconds + i64::from(request.ttl_seconds),
                ..now
            }),
            ..Task::default()
        };
        let mut state = self.state();
        let task = state.tasks.entry((caller, request.task_id)).or_insert(task).clone();
        Ok(Response::new(CreateTaskResponse { task: Some(task) }))
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Result<Response<GetTaskResponse>, Status> {
        let caller = self.enter(&request)?;
        let key = (caller, request.into_inner().task_id);
        let task = self.state().tasks.get(&key).cloned().ok_or_else(not_found)?;
        Ok(Response::new(GetTaskResponse { task: Some(task) }))
    }

    async fn update_task(
        &self,
        request: Request<UpdateTaskRequest>,
    ) -> Result<Response<UpdateTaskResponse>, Status> {
        let caller = self.enter(&request)?;
        let request = request.into_inner();
        let mut state = self.state();
        let task = state.tasks.get_mut(&(caller, request.task_id.clone())).ok_or_else(not_found)?;
        if task.state() != TaskState::Working {
            return Err(Error::new(ErrorCode::TaskEnded, "it has ended").into());
        }
        task.set_state(request.state());
        task.outcome = request.outcome;
        task.changed_at = Some(muster_proto::time::now());
        Ok(Response::new(UpdateTaskResponse { task: Some(task.clone()) }))
    }
}
