//! The verbs' view of a controller: one connection, made lazily, and errors that say what to do.

use std::{error::Error as StdError, time::Duration};

use muster_proto::{
    error::{Error, ErrorCode},
    limits, metadata,
    v1::{
        GetSessionRequest, ListSessionsRequest, Session, admin_service_client::AdminServiceClient,
        audit_service_client::AuditServiceClient, identity_service_client::IdentityServiceClient,
        project_service_client::ProjectServiceClient, session_service_client::SessionServiceClient,
    },
};
use muster_runtime::{
    grpc::{self, TraceInterceptor},
    tls,
};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{
    address::{self, Found, FoundBy},
    args::Remote,
    failure::{Exit, Failure},
    trust::{Credentials, FarmRoot, Token},
};

/// How long a call that is no stream may take. Archiving may wait 10 s for the worker.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for what the controller asks of a worker first, for which it waits 30 s itself.
const WORKER_TIMEOUT: Duration = Duration::from_secs(45);

type Service = InterceptedService<Channel, Caller>;

/// What every call carries: the trace it belongs to, and the access token of whoever calls.
#[derive(Debug, Clone)]
pub struct Caller {
    trace: TraceInterceptor,
    /// `Bearer ...`; marked sensitive, so that it is in no debug output.
    authorization: Option<MetadataValue<Ascii>>,
}

impl Caller {
    /// With a token, if there is one. To another machine it goes over TLS only.
    fn new(found: &Found, token: Option<&Token>) -> Result<Self, Failure> {
        let Some(token) = token else { return Ok(Self { trace: TraceInterceptor, authorization: None }) };
        if !found.uri.starts_with("https://") && !address::is_local(&found.uri) {
            return Err(Failure::usage(format!("an access token is not sent to {} without TLS", found.uri))
                .hint("use its https:// address, with --controller-root"));
        }
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|_| Failure::usage("the access token holds characters that no token has"))?;
        value.set_sensitive(true);
        Ok(Self { trace: TraceInterceptor, authorization: Some(value) })
    }
}

impl Interceptor for Caller {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut request = self.trace.call(request)?;
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

/// A controller. Cheap to clone; all clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    /// Sessions.
    pub sessions: SessionServiceClient<Service>,
    /// Workers and explanations.
    pub admin: AdminServiceClient<Service>,
    /// Who may call.
    pub identity: IdentityServiceClient<Service>,
    /// Declared projects.
    pub projects: ProjectServiceClient<Service>,
    /// Who did what.
    pub audit: AuditServiceClient<Service>,
    found: Found,
}

/// A lazy connection, over TLS where the address says so.
fn channel(found: &Found, root: Option<&FarmRoot>) -> Result<Channel, Failure> {
    let cannot = "controller address cannot be used";
    let Some(address) = found.uri.strip_prefix("https://") else {
        return grpc::connect(&found.uri).map_err(|error| Failure::usage(cannot).caused_by(&error));
    };
    let root = root.ok_or_else(|| {
        Failure::usage(format!("{} cannot be told from any other machine without the farm's root", found.uri))
            .hint("name it with --controller-root: its hash, or the controller's ca/root.pem")
    })?;
    tls::connect(address, root.trust()?, None).map_err(|error| Failure::usage(cannot).caused_by(&error))
}

impl Client {
    /// Finds the controller; connects at the first call. Needs a runtime.
    pub fn new(remote: &Remote) -> Result<Self, Failure> {
        Self::to(address::find_controller(remote.controller.as_deref())?, &remote.credentials)
    }

    /// The controller at an address that is already known.
    pub fn to(found: Found, credentials: &Credentials) -> Result<Self, Failure> {
        let channel = channel(&found, credentials.controller_root.as_ref())?;
        let caller = Caller::new(&found, credentials.token()?.as_ref())?;
        let sessions = SessionServiceClient::with_interceptor(channel.clone(), caller.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES)
            .max_encoding_message_size(limits::MESSAGE_BYTES);
        let admin = AdminServiceClient::with_interceptor(channel.clone(), caller.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES);
        let identity = IdentityServiceClient::with_interceptor(channel.clone(), caller.clone());
        let projects = ProjectServiceClient::with_interceptor(channel.clone(), caller.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES);
        let audit = AuditServiceClient::with_interceptor(channel, caller)
            .max_decoding_message_size(limits::MESSAGE_BYTES);
        Ok(Self { sessions, admin, identity, projects, audit, found })
    }

    /// A request that gives up on a controller that takes it and never answers.
    pub fn call<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(CALL_TIMEOUT);
        request
    }

    /// The same for a call whose answer comes from a worker.
    pub fn worker_call<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(WORKER_TIMEOUT);
        request
    }

    /// The result of a call.
    pub fn result<T>(&self, result: Result<Response<T>, Status>) -> Result<T, Failure> {
        result.map(Response::into_inner).map_err(|status| self.failed(&status))
    }

    /// One session as it is now.
    pub async fn session(&mut self, name: &str) -> Result<Session, Failure> {
        let request = Self::call(GetSessionRequest { session: name.to_owned() });
        let result = self.sessions.get_session(request).await;
        present(self.result(result)?.session)
    }

    /// How many sessions there are: the smallest question that shows whether somebody answers.
    pub async fn session_count(&mut self) -> Result<u32, Failure> {
        let request = ListSessionsRequest { limit: 1, ..ListSessionsRequest::default() };
        let result = self.sessions.list_sessions(Self::call(request)).await;
        Ok(self.result(result)?.total)
    }

    /// What a failed call means to a person.
    pub fn failed(&self, status: &Status) -> Failure {
        if is_ours(status) {
            return Error::from_status(status).into();
        }
        let uri = &self.found.uri;
        let (exit, what) = match status.code() {
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
                (Exit::Unreachable, format!("no controller answers at {uri}"))
            }
            Code::Unimplemented | Code::Internal => {
                (Exit::Unreachable, format!("what answers at {uri} is no controller of this version"))
            }
            code => (Exit::Failed, format!("the call to the controller at {uri} failed ({code:?})")),
        };
        let mut failure = Failure::new(exit, what);
        // Between us and the root stand only "transport error" and the like.
        match root(status) {
            Some(root) => failure = failure.caused_by(root),
            None if !status.message().is_empty() => failure.causes.push(status.message().to_owned()),
            None => {}
        }
        failure.hint(match self.found.by {
            FoundBy::Named if uri.starts_with("https://") => {
                "check --controller, and that --controller-root is the root of the farm there"
            }
            FoundBy::Named => "check --controller and MUSTER_CONTROLLER, or start one with `muster up`",
            FoundBy::AddressFile => {
                "the farm this address is from has ended: start it again with `muster up`"
            }
            FoundBy::Default => "start a farm with `muster up`, or name a controller with --controller",
        })
    }
}

/// The code of a failed call.
pub fn code_of(status: &Status) -> ErrorCode {
    Error::from_status(status).code
}

/// A reply without its session is a defect of the controller, not a reason to panic.
pub fn present(session: Option<Session>) -> Result<Session, Failure> {
    session.ok_or_else(|| Failure::new(Exit::Failed, "the controller's reply holds no session"))
}

/// Whether a stream or call broke because the controller went away: worth another try where trying is
/// harmless.
pub fn is_gone(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        // A connection cut in mid-stream.
        Code::Unknown | Code::Internal | Code::Cancelled => !is_ours(status),
        _ => false,
    }
}

/// The last of the errors that `error` comes from.
fn root(error: &dyn StdError) -> Option<&dyn StdError> {
    let mut root = error.source()?;
    while let Some(deeper) = root.source() {
        root = deeper;
    }
    Some(root)
}

fn is_ours(status: &Status) -> bool {
    status.metadata().get_bin(metadata::ERROR).is_some()
}
