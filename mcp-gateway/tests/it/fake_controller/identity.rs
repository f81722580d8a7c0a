//! Tokens of the fake, and who calls it.

use muster_proto::{
    error::{Error, ErrorCode},
    metadata,
    v1::{
        CheckAccessRequest, CheckAccessResponse, CreateAccessRequest, CreateAccessResponse,
        CreateJoinTokenRequest, CreateJoinTokenResponse, EnrolRequest, EnrolResponse, ListAccessRequest,
        ListAccessResponse, ListJoinTokensRequest, ListJoinTokensResponse, Principal, RenewRequest,
        RenewResponse, RevokeAccessRequest, RevokeAccessResponse, RevokeJoinTokenRequest,
        RevokeJoinTokenResponse, RevokeWorkerRequest, RevokeWorkerResponse, WhoAmIRequest, WhoAmIResponse,
        identity_service_server::IdentityService,
    },
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::Fake;

impl Fake {
    /// Makes a token of `name`'s; no scopes: all.
    pub fn give_token(&self, token: &str, name: &str, scopes: &[&str]) {
        let principal = Principal {
            name: name.to_owned(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            access_id: format!("id-{token}"),
            ..Principal::default()
        };
        self.state().tokens.insert(token.to_owned(), principal);
    }
}

/// Whom a call is for; empty: whoever calls.
pub fn principal<T>(request: &Request<T>) -> Option<Principal> {
    let value = request.metadata().get_bin(metadata::ON_BEHALF_OF)?;
    Principal::decode(value.to_bytes().ok()?).ok()
}

type Answer<T> = Result<Response<T>, Status>;

fn nobody<T>() -> Answer<T> {
    Err(Status::unimplemented("nobody asks for it"))
}

#[async_trait::async_trait]
impl IdentityService for Fake {
    async fn check_access(&self, request: Request<CheckAccessRequest>) -> Answer<CheckAccessResponse> {
        let caller = self.enter(&request)?;
        assert!(caller.is_empty(), "a gateway checks tokens for itself");
        self.state().checks += 1;
        let principal = self.state().tokens.get(&request.into_inner().token).cloned();
        match principal {
            Some(principal) => Ok(Response::new(CheckAccessResponse { principal: Some(principal) })),
            None => Err(Error::new(ErrorCode::Unauthenticated, "nobody knows this token").into()),
        }
    }

    async fn enrol(&self, _: Request<EnrolRequest>) -> Answer<EnrolResponse> {
        nobody()
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Answer<RenewResponse> {
        nobody()
    }

    async fn who_am_i(&self, _: Request<WhoAmIRequest>) -> Answer<WhoAmIResponse> {
        nobody()
    }

    async fn create_join_token(&self, _: Request<CreateJoinTokenRequest>) -> Answer<CreateJoinTokenResponse> {
        nobody()
    }

    async fn list_join_tokens(&self, _: Request<ListJoinTokensRequest>) -> Answer<ListJoinTokensResponse> {
        nobody()
    }

    async fn revoke_join_token(&self, _: Request<RevokeJoinTokenRequest>) -> Answer<RevokeJoinTokenResponse> {
        nobody()
    }

    async fn revoke_worker(&self, _: Request<RevokeWorkerRequest>) -> Answer<RevokeWorkerResponse> {
        nobody()
    }

    async fn create_access(&self, _: Request<CreateAccessRequest>) -> Answer<CreateAccessResponse> {
        nobody()
    }

    async fn list_access(&self, _: Request<ListAccessRequest>) -> Answer<ListAccessResponse> {
        nobody()
    }

    async fn revoke_access(&self, _: Request<RevokeAccessRequest>) -> Answer<RevokeAccessResponse> {
        nobody()
    }
}
