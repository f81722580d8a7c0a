//! Reading the audit log.

use std::pin::Pin;

use futures::{Stream, stream};
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{AuditEntry, ReadAuditRequest, ReadAuditResponse, audit_service_server::AuditService},
};
use muster_runtime::task;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{Context, leaving};

/// Records of one message.
const AT_ONCE: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Reader {
    context: Context,
}

impl Reader {
    pub(super) const fn new(context: Context) -> Self {
        Self { context }
    }
}

/// Where a reader is.
struct Place {
    context: Context,
    next: u64,
    /// Records it is still to be given.
    left: u64,
    /// Without follow: where it ends.
    end: Option<u64>,
    last: watch::Receiver<u64>,
}

impl Place {
    async fn batch(&mut self) -> Result<Option<Vec<AuditEntry>>, Error> {
        loop {
            let last = *self.last.borrow_and_update();
            let end = self.end.unwrap_or(last);
            if self.left == 0 || (self.end.is_some() && self.next > end) {
                return Ok(None);
            }
            if self.next <= end {
                let most = self.left.min(end - self.next + 1).min(AT_ONCE as u64);
                let entries =
                    read(&self.context, self.next, usize::try_from(most).unwrap_or(AT_ONCE)).await?;
                self.next += entries.len() as u64;
                self.left -= entries.len() as u64;
                return Ok(Some(entries).filter(|entries| !entries.is_empty()));
            }
            tokio::select! {
                changed = self.last.changed() => if changed.is_err() { return Err(leaving()) },
                () = self.context.leaving.requested() => return Err(leaving()),
            }
        }
    }
}

async fn read(context: &Context, from: u64, most: usize) -> Result<Vec<AuditEntry>, Error> {
    let audit = context.audit.clone();
    let failed = |error: String| {
        Error::new(ErrorCode::StoreUnavailable, format!("the audit log cannot be read: {error}"))
    };
    let read = task::spawn_blocking("read audit", move || audit.read(from, most)).await;
    read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}

#[tonic::async_trait]
impl AuditService for Reader {
    type ReadAuditStream = Pin<Box<dyn Stream<Item = Result<ReadAuditResponse, Status>> + Send>>;

    async fn read_audit(
        &self,
        request: Request<ReadAuditRequest>,
    ) -> Result<Response<Self::ReadAuditStream>, Status> {
        let ReadAuditRequest { from_seq, follow, limit } = request.into_inner();
        let context = self.context.clone();
        let last = context.audit.last();
        let end = *last.borrow();
        let oldest = context.audit.oldest().map_err(|error| {
            Error::new(ErrorCode::StoreUnavailable, format!("the audit log cannot be read: {error}"))
        })?;
        let next = if from_seq == 0 { oldest } else { from_seq };
        if next < oldest || next > end + 1 {
            let message = format!("records {oldest} to {end} are kept, and {next} is asked for");
            let error = Error::new(ErrorCode::InvalidCursor, message);
            return Err(Error { field: "fromSeq".to_owned(), ..error }.into());
        }
        let left = if limit == 0 { u64::MAX } else { limit };
        let place = Place { context, next, left, end: (!follow).then_some(end), last };
        let stream = stream::unfold(Some(place), |place| async move {
            let mut place = place?;
            match place.batch().await {
                Ok(Some(entries)) => Some((Ok(ReadAuditResponse { entries }), Some(place))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
