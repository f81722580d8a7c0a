//! Output as a reader gets it, and whether it is what was said.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use muster_harness::said;
use muster_proto::v1::{ReadOutputRequest, session_service_client::SessionServiceClient};
use muster_runtime::grpc;
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    oracle::Witnessed,
    report::{Report, Violation},
    run::Run,
};

/// How far behind the last common byte the end of an attempt that was cut is looked for.
const OVERLAP: usize = 1 << 16;
/// Bytes of an attempt's beginning that no other attempt begins with: its first line carries an id.
const BEGINNING: usize = 256;

/// Reads a session's output from its first byte to its end, over however many connections it takes. A
/// reader goes on where it was.
///
/// # Errors
/// When it does not end within `limit`; when the reader is told something that cannot be.
pub async fn read(controller_url: &str, session: &str, limit: Duration) -> anyhow::Result<Vec<u8>> {
    let deadline = Instant::now() + limit;
    let mut client = SessionServiceClient::new(grpc::connect(controller_url)?);
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let ask = ReadOutputRequest {
            session: session.to_owned(),
            from_offset: bytes.len() as u64,
            follow: true,
            limit_bytes: 0,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("the output of {session} does not end within {limit:?}; it is at {}", bytes.len());
        }
        match tokio::time::timeout(left, read_on(&mut client, ask, &mut bytes)).await {
            Ok(Ok(())) => return Ok(bytes),
            Ok(Err(status))
                if !matches!(status.code(), Code::OutOfRange | Code::InvalidArgument | Code::Internal) =>
            {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            Ok(Err(status)) => bail!("reading {session} at {}: {status}", bytes.len()),
            Err(_) => {}
        }
    }
}

async fn read_on(
    client: &mut SessionServiceClient<tonic::transport::Channel>,
    ask: ReadOutputRequest,
    bytes: &mut Vec<u8>,
) -> Result<(), tonic::Status> {
    let mut stream = client.read_output(ask).await?.into_inner();
    while let Some(chunk) = stream.message().await? {
        if chunk.data.is_empty() {
            continue;
        }
        if chunk.offset != bytes.len() as u64 {
            let problem = format!("a chunk at {} follows byte {}", chunk.offset, bytes.len());
            return Err(tonic::Status::internal(problem));
        }
        bytes.extend_from_slice(&chunk.data);
    }
    Ok(())
}

/// The same by pages of `get_session_output`.
///
/// # Errors
/// When a page leads nowhere.
pub async fn read_pages(run: &Run, session: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut cursor = Value::from("o0");
    loop {
        let ask = json!({ "sessionId": session, "format": "raw", "cursor": cursor, "maxChars": 100_000 });
        let page = run.ok("get_session_output", &ask, Duration::from_secs(60)).await?;
        match (&page["text"], &page["base64"]) {
            (Value::String(text), _) => bytes.extend_from_slice(text.as_bytes()),
            (_, Value::String(coded)) => bytes.extend(BASE64.decode(coded).context("base64")?),
            _ => {}
        }
        if page["eof"] == true {
            return Ok(bytes);
        }
        ensure!(page["nextCursor"] != cursor, "a page leads nowhere: {page}");
        cursor = page["nextCursor"].clone();
    }
}

/// Length of what both begin with.
fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    const STEP: usize = 1 << 16;
    let most = left.len().min(right.len());
    let mut same = 0;
    while same + STEP <= most && left[same..same + STEP] == right[same..same + STEP] {
        same += STEP;
    }
    same + left[same..].iter().zip(&right[same..]).take_while(|(left, right)| left == right).count()
}

/// Compares what was read with what each process of the session said. `cut`: a process may have been killed
/// before it had said all.
pub fn compare(
    report: &Report,
    who: &str,
    read: &[u8],
    witnessed: &Witnessed,
    cut: bool,
) -> anyhow::Result<()> {
    let attempts = witnessed.said.iter().map(|file| said::read(file)).collect::<Result<Vec<_>, _>>()?;
    let mut rest = read;
    for (index, said) in attempts.iter().enumerate() {
        let common = common_prefix(rest, said);
        if common == said.len() {
            rest = &rest[common..];
            continue;
        }
        let next = attempts.get(index + 1).map(|next| &next[..next.len().min(BEGINNING)]);
        // Where the next process goes on; without one the output ends here.
        let end = match next {
            Some(next) => (common.saturating_sub(OVERLAP)..=common).find(|at| rest[*at..].starts_with(next)),
            None => (rest.len() == common).then_some(common),
        };
        match end {
            Some(end) if cut => rest = &rest[end..],
            _ => {
                let at = read.len() - rest.len() + common;
                let [was, should] = [&read[at.min(read.len())..], &said[common..]]
                    .map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned());
                report.violation(
                    Violation::Difference,
                    format_args!(
                        "{who}: byte {at} of {} (process {} of {}, byte {common} of {}) is {was:?} and was said {should:?}",
                        read.len(), index + 1, attempts.len(), said.len()
                    ),
                );
                return Ok(());
            }
        }
    }
    if !rest.is_empty() {
        let shown = String::from_utf8_lossy(&rest[..rest.len().min(80)]);
        report.violation(
            Violation::Difference,
            format_args!(
                "{who}: {} bytes at {} were never said: {shown:?}",
                rest.len(),
                read.len() - rest.len()
            ),
        );
    }
    report.count("bytes compared", read.len() as u64);
    Ok(())
}
