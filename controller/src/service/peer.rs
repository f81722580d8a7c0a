//! Which worker makes a call: the ones beside Connect name it in their metadata.

use muster_proto::{
    error::{Error, ErrorCode},
    ids::{Incarnation, WorkerId},
    metadata,
    v1::Role,
};
use tonic::{Request, Status, metadata::MetadataMap};

use super::Context;
use crate::{fleet::link::Closed, identity::Principal, session::record::LOCAL};

/// Characters of a caller's name.
pub(super) const NAME_CHARS: usize = 64;

/// Whom the gate took the caller for.
pub(super) fn principal<T>(request: &Request<T>) -> Result<Principal, Error> {
    let missing = || Error::new(ErrorCode::Internal, "a call came past the gate");
    request.extensions().get::<Principal>().cloned().ok_or_else(missing)
}

/// Who calls. On the controller's own machine, where nobody is kept from anything, a caller may say so itself.
pub(super) fn caller<T>(request: &Request<T>) -> Result<String, Error> {
    let principal = principal(request)?;
    let name = principal.caller();
    match request.metadata().get(metadata::CALLER) {
        Some(value) if name == LOCAL && principal.behalf.is_none() => {
            let sound = value.to_str().ok().filter(|name| is_name(name));
            sound.map(str::to_owned).ok_or_else(|| Error::invalid(metadata::CALLER, NO_NAME))
        }
        _ => Ok(name),
    }
}

/// What is wrong with a name that is none.
pub(super) const NO_NAME: &str = "is no name of 1 to 64 characters of [a-zA-Z0-9._@-]";

/// Whether a caller can be called so.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    (1..=NAME_CHARS).contains(&name.len()) && name.bytes().all(plain)
}

/// Whether a caller may speak for `worker`: one that has a certificate is the worker it says and no other.
pub(super) fn is_itself<T>(request: &Request<T>, worker: &WorkerId) -> Result<(), Error> {
    let principal = principal(request)?;
    if principal.role != Role::Worker || principal.name == worker.as_str() {
        return Ok(());
    }
    let message = format!("the certificate is of the worker {}, not of {worker}", principal.name);
    Err(Error::new(ErrorCode::PermissionDenied, message))
}

/// The worker that calls and its live link.
pub(super) async fn linked<T>(context: &Context, request: &Request<T>) -> Result<(WorkerId, Closed), Status> {
    let metadata: &MetadataMap = request.metadata();
    let text = |key| metadata.get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let worker: WorkerId = text(metadata::WORKER)
        .parse()
        .map_err(|error| Error::invalid("muster-worker", format!("{error}")))?;
    let incarnation: Incarnation = text(metadata::INCARNATION)
        .parse()
        .map_err(|error| Error::invalid("muster-incarnation", format!("{error}")))?;
    is_itself(request, &worker)?;
    let link = context.engine.link(worker.clone(), incarnation).await?;
    let link =
        link.ok_or_else(|| Status::failed_precondition("no Connect of this worker and incarnation is live"))?;
    Ok((worker, link))
}
