//! Which worker makes a call: the ones beside Connect name it in their metadata.

use muster_proto::{
    error::Error,
    ids::{Incarnation, WorkerId},
    metadata,
};
use tonic::{Status, metadata::MetadataMap};

use super::Context;
use crate::fleet::link::Closed;

/// Who a caller is that does not say.
const LOCAL: &str = "local";
/// Characters of a caller's name.
const CALLER_CHARS: usize = 64;

/// Who calls, as it says itself: enough between programs of one machine, where nobody is kept from anything.
pub(super) fn caller(metadata: &MetadataMap) -> Result<String, Error> {
    let Some(value) = metadata.get(metadata::CALLER) else { return Ok(LOCAL.to_owned()) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    let sound = |name: &&str| (1..=CALLER_CHARS).contains(&name.len()) && name.bytes().all(plain);
    let name = value.to_str().ok().filter(sound);
    name.map(str::to_owned).ok_or_else(|| {
        Error::invalid(
            metadata::CALLER,
            format!("is no name of 1 to {CALLER_CHARS} characters of [a-zA-Z0-9._@-]"),
        )
    })
}

/// The worker that calls and its live link.
pub(super) async fn linked(context: &Context, metadata: &MetadataMap) -> Result<(WorkerId, Closed), Status> {
    let text = |key| metadata.get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let worker: WorkerId = text(metadata::WORKER)
        .parse()
        .map_err(|error| Error::invalid("muster-worker", format!("{error}")))?;
    let incarnation: Incarnation = text(metadata::INCARNATION)
        .parse()
        .map_err(|error| Error::invalid("muster-incarnation", format!("{error}")))?;
    let link = context.engine.link(worker.clone(), incarnation).await?;
    let link =
        link.ok_or_else(|| Status::failed_precondition("no Connect of this worker and incarnation is live"))?;
    Ok((worker, link))
}
