//! Making and revoking identities.

use std::time::Duration;

use muster_proto::{
    error::{Error, ErrorCode},
    ids::WorkerId,
    v1::{
        CreateAccessRequest, CreateAccessResponse, CreateJoinTokenRequest, CreateJoinTokenResponse,
        EnrolRequest, EnrolResponse, ListAccessRequest, ListAccessResponse, ListJoinTokensRequest,
        ListJoinTokensResponse, RenewRequest, RenewResponse, RevokeAccessRequest, RevokeAccessResponse,
        RevokeJoinTokenRequest, RevokeJoinTokenResponse, RevokeWorkerRequest, RevokeWorkerResponse, Role,
        WhoAmIRequest, WhoAmIResponse, identity_service_server::IdentityService,
    },
};
use tonic::{Request, Response, Status};

use super::{Context, peer, validate};
use crate::identity::{
    NewAccess,
    ca::ProvenKey,
    join::{Granted, NewJoin},
};

/// How long an access token counts when nobody says.
const ACCESS_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a join token counts when nobody says.
const JOIN_TTL: Duration = Duration::from_secs(15 * 60);

/// Roles an access token may have.
pub(super) const ROLES: [Role; 4] = [Role::Viewer, Role::Operator, Role::Orchestrator, Role::Admin];

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

fn seconds_or(seconds: u32, default: Duration) -> Duration {
    if seconds == 0 { default } else { Duration::from_secs(seconds.into()) }
}

fn new_access(request: CreateAccessRequest) -> Result<NewAccess, Error> {
    validate::access(&request)?;
    let (role, ttl) = (request.role(), seconds_or(request.ttl_seconds, ACCESS_TTL));
    Ok(NewAccess { name: request.name, role, projects: request.projects, ttl })
}

fn new_join(request: CreateJoinTokenRequest) -> Result<NewJoin, Error> {
    validate::join(&request)?;
    let worker = (!request.worker.is_empty()).then(|| worker(&request.worker)).transpose()?;
    let ttl = seconds_or(request.ttl_seconds, JOIN_TTL);
    Ok(NewJoin { worker, ttl, uses: request.uses.max(1), labels: request.labels.into_iter().collect() })
}

fn key(csr: &[u8]) -> Result<ProvenKey, Error> {
    ProvenKey::of_request(csr)
        .map_err(|reason| Error::invalid("csr", format!("is no good request: {reason}")))
}

fn worker(name: &str) -> Result<WorkerId, Error> {
    name.parse().map_err(|error| Error::invalid("worker", format!("{error}")))
}

fn der(granted: &Granted) -> (Vec<u8>, Vec<Vec<u8>>) {
    (granted.certificate.to_vec(), granted.roots.iter().map(|root| root.to_vec()).collect())
}

#[tonic::async_trait]
impl IdentityService for Identity {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let EnrolRequest { token, csr, worker } = request.into_inner();
        let granted = self.context.identities.enrol(&token, &key(&csr)?, &worker).await?;
        let (certificate, roots) = der(&granted);
        let (expires_at, worker) = (Some(granted.expires_at), granted.worker.to_string());
        Ok(Response::new(EnrolResponse { certificate, roots, expires_at, worker }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let principal = peer::principal(&request)?;
        if principal.role != Role::Worker {
            return Err(Error::invalid("csr", "only a worker has a certificate to renew").into());
        }
        let key = key(&request.into_inner().csr)?;
        let granted = self.context.identities.renew(&worker(&principal.name)?, &key).await?;
        let (certificate, roots) = der(&granted);
        Ok(Response::new(RenewResponse { certificate, roots, expires_at: Some(granted.expires_at) }))
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let principal = peer::principal(&request)?;
        let expires_at = *principal.expires_at.borrow();
        Ok(Response::new(WhoAmIResponse {
            name: principal.name,
            role: principal.role.into(),
            projects: principal.projects,
            expires_at,
            ..WhoAmIResponse::default()
        }))
    }

    async fn check_access(
        &self,
        _request: Request<muster_proto::v1::CheckAccessRequest>,
    ) -> Result<Response<muster_proto::v1::CheckAccessResponse>, Status> {
        Err(Status::unimplemented("not built yet"))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let address = self.context.remote_address.as_ref().ok_or_else(|| {
            Error::new(ErrorCode::NoRemoteAddress, "this controller has no address for other machines")
                .hint("Start it with one, then make the token.")
        })?;
        let new = new_join(request.into_inner())?;
        let (token, info) = self.context.identities.create_join(new).await?;
        Ok(Response::new(CreateJoinTokenResponse { token: format!("{token}@{address}"), info: Some(info) }))
    }

    async fn list_join_tokens(
        &self,
        _request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        Ok(Response::new(ListJoinTokensResponse { tokens: self.context.identities.list_joins() }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenResponse>, Status> {
        self.context.identities.revoke_join(&request.into_inner().id).await?;
        Ok(Response::new(RevokeJoinTokenResponse {}))
    }

    async fn revoke_worker(
        &self,
        request: Request<RevokeWorkerRequest>,
    ) -> Result<Response<RevokeWorkerResponse>, Status> {
        self.context.identities.revoke_worker(&worker(&request.into_inner().worker)?).await?;
        Ok(Response::new(RevokeWorkerResponse {}))
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
