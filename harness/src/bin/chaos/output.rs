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
///
/// # Errors
/// When a record cannot be read.
pub fn compare(
    report: &Report,
    who: &str,
    read: &[u8],
    witnessed: &Witnessed,
    cut: bool,
) -> anyhow::Result<()> {
    let attempts = witnessed.said.iter().map(|file| said::read(file)).collect::<Result<Vec<_>, _>>()?;
    match difference(read, &attempts, cut) {
        Some(difference) => report.violation(Violation::Difference, format_args!("{who}: {difference}")),
        None => report.count("bytes compared", read.len() as u64),
    }
    Ok(())
}

/// Where `read` is not what the processes said one after the other.
fn difference(read: &[u8], attempts: &[Vec<u8>], cut: bool) -> Option<String> {
    let (mut rest, mut index) = (read, 0);
    while let Some(said) = attempts.get(index) {
        let common = common_prefix(rest, said);
        if common == said.len() {
            rest = &rest[common..];
            index += 1;
            continue;
        }
        let Some((end, next)) = cut.then(|| goes_on(rest, common, &attempts[index + 1..])).flatten() else {
            let at = read.len() - rest.len() + common;
            let [was, should] = [&read[at.min(read.len())..], &said[common..]]
                .map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned());
            return Some(format!(
                "byte {at} of {} (process {} of {}, byte {common} of {}) is {was:?} and was said {should:?}",
                read.len(),
                index + 1,
                attempts.len(),
                said.len()
            ));
        };
        rest = &rest[end..];
        index += 1 + next;
    }
    (!rest.is_empty()).then(|| {
        let shown = String::from_utf8_lossy(&rest[..rest.len().min(80)]);
        format!("{} bytes at {} were never said: {shown:?}", rest.len(), read.len() - rest.len())
    })
}

/// Where a process that was cut ends in `rest`, of which `common` bytes may be its own, and which of those after
/// it goes on there: one that was killed early enough left nothing.
fn goes_on(rest: &[u8], common: usize, later: &[Vec<u8>]) -> Option<(usize, usize)> {
    let window = common.saturating_sub(OVERLAP)..=common;
    let begins = |next: &[u8]| {
        let beginning = &next[..next.len().min(BEGINNING)];
        (!beginning.is_empty())
            .then(|| window.clone().find(|at| rest[*at..].starts_with(beginning)))
            .flatten()
    };
    let next = later.iter().enumerate().find_map(|(skipped, next)| Some((begins(next)?, skipped)));
    next.or_else(|| (rest.len() == common).then_some((common, later.len())))
}

#[cfg(test)]
mod tests {
    use super::difference;

    fn line(process: u32) -> Vec<u8> {
        format!("{{\"type\":\"system\",\"uuid\":\"{process:0300}\"}}\n").into_bytes()
    }

    #[test]
    fn a_process_that_was_cut_is_followed_by_the_next() {
        let (one, two) = (line(1), line(2));
        let read = [&one[..200], &two[..]].concat();
        assert_eq!(difference(&read, &[one.clone(), two.clone()], true), None);
        assert!(difference(&read, &[one, two], false).is_some(), "nobody cut it");
    }

    #[test]
    fn a_process_that_was_killed_before_it_said_anything_left_nothing() {
        let (one, three) = (line(1), line(3));
        let read = [&one[..200], &three[..]].concat();
        // The second had not begun its record, or had and was killed before the write.
        assert_eq!(difference(&read, &[one.clone(), Vec::new(), three.clone()], true), None);
        assert_eq!(difference(&read, &[one, line(2), three], true), None);
    }

    #[test]
    fn a_byte_that_is_lost_changed_or_made_up_is_found() {
        let said = [line(1), line(2)].concat();
        let mut changed = said.clone();
        changed[400] ^= 1;
        for cut in [false, true] {
            let differs = |read: &[u8]| difference(read, std::slice::from_ref(&said), cut).is_some();
            assert!(!differs(&said));
            assert!(differs(&changed), "changed, {cut}");
            assert!(differs(&[&said[..10], &said[11..]].concat()), "lost, {cut}");
            assert!(differs(&[&said[..], b"x"].concat()), "made up, {cut}");
        }
    }
}
