//! Making and revoking identities.

use std::time::Duration;

use muster_proto::{
    error::Error,
    v1::{
        CreateAccessRequest, CreateAccessResponse, ListAccessRequest, ListAccessResponse,
        RevokeAccessRequest, RevokeAccessResponse, Role, WhoAmIRequest, WhoAmIResponse,
        identity_service_server::IdentityService,
    },
};
use tonic::{Request, Response, Status};

use super::{Context, peer, validate};
use crate::identity::NewAccess;

/// How long an access token counts when nobody says.
const ACCESS_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// See the module.
#[derive(Debug)]
pub struct Identity {
    context: Context,
}

impl Identity {
    pub(super) const fn new(context: Context) -> Self {
        Self { context }
    }
}

fn new_access(request: CreateAccessRequest) -> Result<NewAccess, Error> {
    validate::access(&request)?;
    let role = request.role();
    let seconds = u64::from(request.ttl_seconds);
    let ttl = if seconds == 0 { ACCESS_TTL } else { Duration::from_secs(seconds) };
    Ok(NewAccess { name: request.name, role, projects: request.projects, ttl })
}

#[tonic::async_trait]
impl IdentityService for Identity {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let principal = peer::principal(&request)?;
        Ok(Response::new(WhoAmIResponse {
            name: principal.name,
            role: principal.role.into(),
            projects: principal.projects,
            expires_at: principal.expires_at,
        }))
    }

    async fn create_access(
        &self,
        request: Request<CreateAccessRequest>,
    ) -> Result<Response<CreateAccessResponse>, Status> {
        let new = new_access(request.into_inner())?;
        let (token, info) = self.context.identities.create(new).await?;
        Ok(Response::new(CreateAccessResponse { token, info: Some(info) }))
    }

    async fn list_access(
        &self,
        _request: Request<ListAccessRequest>,
    ) -> Result<Response<ListAccessResponse>, Status> {
        Ok(Response::new(ListAccessResponse { access: self.context.identities.list() }))
    }

    async fn revoke_access(
        &self,
        request: Request<RevokeAccessRequest>,
    ) -> Result<Response<RevokeAccessResponse>, Status> {
        self.context.identities.revoke(&request.into_inner().id).await?;
        Ok(Response::new(RevokeAccessResponse {}))
    }
}

/// Roles an access token may have.
pub(super) const ROLES: [Role; 4] = [Role::Viewer, Role::Operator, Role::Orchestrator, Role::Admin];
