//! Making and revoking identities.

use std::time::Duration;

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{SessionId, WorkerId},
    v1::{
        CheckAccessRequest, CheckAccessResponse, CreateAccessRequest, CreateAccessResponse,
        CreateJoinTokenRequest, CreateJoinTokenResponse, EnrolRequest, EnrolResponse, ListAccessRequest,
        ListAccessResponse, ListJoinTokensRequest, ListJoinTokensResponse, RenewRequest, RenewResponse,
        RevokeAccessRequest, RevokeAccessResponse, RevokeJoinTokenRequest, RevokeJoinTokenResponse,
        RevokeWorkerRequest, RevokeWorkerResponse, Role, WhoAmIRequest, WhoAmIResponse,
        identity_service_server::IdentityService,
    },
};
use tonic::{Request, Response, Status};

use super::{Context, peer, recorded::About, validate};
use crate::engine::Scope;
use crate::identity::{
    NewAccess,
    ca::ProvenKey,
    join::{Granted, NewJoin},
    unknown,
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

async fn new_access(context: &Context, request: CreateAccessRequest) -> Result<NewAccess, Error> {
    validate::access(&request)?;
    let session = match request.session.as_str() {
        "" => None,
        named => Some(session(context, named).await?),
    };
    let (role, ttl) = (request.role(), seconds_or(request.ttl_seconds, ACCESS_TTL));
    Ok(NewAccess {
        name: request.name,
        role,
        projects: request.projects,
        ttl,
        scopes: request.scopes,
        session,
    })
}

/// The session that a token is to be for.
async fn session(context: &Context, named: &str) -> Result<SessionId, Error> {
    let id = context.engine.resolve(named.to_owned()).await?;
    if context.engine.lives(id).await? {
        return Ok(id);
    }
    let error =
        Error::new(ErrorCode::SessionEnded, format!("{named} has ended, and its token would with it"));
    Err(Error { field: "session".to_owned(), ..error })
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
        let about = About::of(&request);
        let EnrolRequest { token, csr, worker } = request.into_inner();
        about.set(&worker, "");
        let granted = self.context.identities.enrol(&token, &key(&csr)?, &worker).await?;
        about.set(granted.worker.as_str(), "joined");
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
        let session = principal.all().filter_map(|one| one.session).last();
        Ok(Response::new(WhoAmIResponse {
            scopes: principal.scopes().names(),
            session: session.map(|id| id.to_string()).unwrap_or_default(),
            on_behalf_of: principal.behalf.map(|other| other.name).unwrap_or_default(),
            name: principal.name,
            role: principal.role.into(),
            projects: principal.projects,
            expires_at,
        }))
    }

    async fn check_access(
        &self,
        request: Request<CheckAccessRequest>,
    ) -> Result<Response<CheckAccessResponse>, Status> {
        let (id, principal) = self.context.identities.by_token(request.into_inner().token.trim())?;
        if let Some(session) = principal.session
            && !self.context.engine.scoped(Scope::all()).lives(session).await?
        {
            return Err(unknown().into());
        }
        Ok(Response::new(CheckAccessResponse { principal: Some(principal.view(&id)) }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let address = self.context.remote_address.as_ref().ok_or_else(|| {
            Error::new(ErrorCode::NoRemoteAddress, "this controller has no address for other machines")
                .hint("Start it with one, then make the token.")
        })?;
        let about = About::of(&request);
        let new = new_join(request.into_inner())?;
        let (token, info) = self.context.identities.create_join(new).await?;
        about.set(&info.id, format!("uses {}, worker {:?}", info.uses, info.worker));
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
        About::of(&request).set(&request.get_ref().id, "");
        self.context.identities.revoke_join(&request.into_inner().id).await?;
        Ok(Response::new(RevokeJoinTokenResponse {}))
    }

    async fn revoke_worker(
        &self,
        request: Request<RevokeWorkerRequest>,
    ) -> Result<Response<RevokeWorkerResponse>, Status> {
        About::of(&request).set(&request.get_ref().worker, "");
        self.context.identities.revoke_worker(&worker(&request.into_inner().worker)?).await?;
        Ok(Response::new(RevokeWorkerResponse {}))
    }

    async fn create_access(
        &self,
        request: Request<CreateAccessRequest>,
    ) -> Result<Response<CreateAccessResponse>, Status> {
        let (context, about) = (self.context.seen_by(&request)?, About::of(&request));
        let new = new_access(&context, request.into_inner()).await?;
        let (token, info) = self.context.identities.create(new).await?;
        about.set(&info.id, format!("{} as {}", info.name, info.role().as_str_name()));
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
        About::of(&request).set(&request.get_ref().id, "");
        self.context.identities.revoke(&request.into_inner().id).await?;
        Ok(Response::new(RevokeAccessResponse {}))
    }
}
