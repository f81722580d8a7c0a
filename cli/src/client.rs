//! The verbs' view of a controller: one connection, made lazily, and errors that say what to do.

use std::{error::Error as StdError, time::Duration};

use muster_proto::{
    error::{Error, ErrorCode},
    limits, metadata,
    v1::{
        GetSessionRequest, Session, admin_service_client::AdminServiceClient,
        identity_service_client::IdentityServiceClient, session_service_client::SessionServiceClient,
    },
};
use muster_runtime::grpc::{self, TraceInterceptor};
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
};

/// Where the verbs find their access token. Not a flag: other users of a machine see a command line.
const TOKEN_VARIABLE: &str = "MUSTER_TOKEN";
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
    /// With the token in the environment, if there is one.
    fn from_environment() -> Result<Self, Failure> {
        let authorization = match std::env::var(TOKEN_VARIABLE) {
            Ok(token) if !token.trim().is_empty() => {
                let value = format!("Bearer {}", token.trim());
                let mut value = MetadataValue::try_from(value).map_err(|_| {
                    Failure::usage(format!("{TOKEN_VARIABLE} holds characters that no token has"))
                })?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        Ok(Self { trace: TraceInterceptor, authorization })
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
    found: Found,
}

impl Client {
    /// Finds the controller; connects at the first call. Needs a runtime.
    pub fn new(remote: &Remote) -> Result<Self, Failure> {
        Self::to(address::find_controller(remote.controller.as_deref())?)
    }

    /// The controller at an address that is already known.
    pub fn to(found: Found) -> Result<Self, Failure> {
        let channel = grpc::connect(&found.uri)
            .map_err(|error| Failure::usage("controller address cannot be used").caused_by(&error))?;
        let caller = Caller::from_environment()?;
        let sessions = SessionServiceClient::with_interceptor(channel.clone(), caller.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES)
            .max_encoding_message_size(limits::MESSAGE_BYTES);
        let admin = AdminServiceClient::with_interceptor(channel.clone(), caller.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES);
        let identity = IdentityServiceClient::with_interceptor(channel, caller);
        Ok(Self { sessions, admin, identity, found })
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
