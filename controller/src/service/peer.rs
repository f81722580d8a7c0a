//! Which worker makes a call: the ones beside Connect name it in their metadata.

use muster_proto::{
    error::Error,
    ids::{Incarnation, WorkerId},
    metadata,
};
use tonic::{Status, metadata::MetadataMap};

use super::Context;
use crate::fleet::link::Closed;

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
