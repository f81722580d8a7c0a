//! `muster logs`: what a session said and did, as text, as bytes, or as NDJSON.
//!
//! Invariant: bytes are taken by offset, so that a reconnect neither repeats nor loses one.

use std::time::{Duration, Instant};

use clap::Args;
use muster_mcp_gateway::render::Transcript;
use muster_proto::v1::{ReadOutputRequest, ReadOutputResponse};
use muster_runtime::backoff::Backoff;
use serde_json::{Value, json};
use tonic::{Status, Streaming};

use crate::{
    args::Remote,
    client::{Client, is_gone},
    failure::{Exit, Failure},
    output::{self, Output},
};

/// How long a controller that went away while we follow may stay away.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest line `--json` keeps in memory; a longer one is passed on in pieces, as text.
const LINE_BYTES: usize = 64 << 20;

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    session: String,
    /// Stay until the session ends, and show what comes
    #[arg(short, long)]
    follow: bool,
    /// The bytes as claude printed them
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Begin at this byte of the output (with text or JSON: at the beginning of a line)
    #[arg(long, value_name = "OFFSET", default_value_t = 0, hide_default_value = true)]
    from: u64,
    #[command(flatten)]
    remote: Remote,
}

/// Shows output.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let mut form = if options.raw {
        Form::Raw
    } else if output.json {
        Form::Lines(Lines { offset: options.from, unfinished: Vec::new() })
    } else {
        Form::Text(Box::default())
    };
    let mut reader = Reader::new(client, &options);
    while let Some(data) = reader.next().await? {
        form.show(output, &data)?;
    }
    form.finish(output)?;
    Ok(Exit::Ok)
}

enum Form {
    Raw,
    Text(Box<Transcript>),
    Lines(Lines),
}

impl Form {
    fn show(&mut self, output: Output, data: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Raw => output.bytes(data),
            Self::Text(transcript) => output.bytes(transcript.push(data).as_bytes()),
            Self::Lines(lines) => lines.push(data).iter().try_for_each(|record| output.record(record)),
        }
    }

    fn finish(self, output: Output) -> Result<(), Failure> {
        match self {
            Self::Lines(mut lines) if !lines.unfinished.is_empty() => output.record(&lines.take()),
            _ => Ok(()),
        }
    }
}

/// Bytes as one JSON object a line: `{"offset", "event"}`, or `{"offset", "text"}` for a line that is no
/// JSON.
struct Lines {
    /// Of the first byte of `unfinished`.
    offset: u64,
    unfinished: Vec<u8>,
}

impl Lines {
    fn push(&mut self, data: &[u8]) -> Vec<Value> {
        let mut records = Vec::new();
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            self.unfinished.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.unfinished.len() >= LINE_BYTES {
                records.push(self.take());
            }
        }
        records
    }

    fn take(&mut self) -> Value {
        let line = std::mem::take(&mut self.unfinished);
        let offset = self.offset;
        self.offset += line.len() as u64;
        match serde_json::from_slice::<Value>(&line) {
            Ok(event) => json!({ "offset": offset, "event": event }),
            Err(_) => {
                let text = String::from_utf8_lossy(&line);
                json!({ "offset": offset, "text": text.trim_end_matches(['\r', '\n']) })
            }
        }
    }
}

/// Output in order, over as many streams as it takes.
struct Reader {
    client: Client,
    session: String,
    follow: bool,
    offset: u64,
    stream: Option<Streaming<ReadOutputResponse>>,
    answered: bool,
    away_since: Option<Instant>,
    backoff: Backoff,
}

impl Reader {
    fn new(client: Client, options: &Options) -> Self {
        Self {
            client,
            session: options.session.clone(),
            follow: options.follow,
            offset: options.from,
            stream: None,
            answered: false,
            away_since: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
        }
    }

    /// The next bytes; None at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            match self.receive().await {
                Ok(Some(chunk)) => {
                    self.answered = true;
                    self.away_since = None;
                    self.backoff.reset();
                    // What a second stream repeats of the first is left out.
                    let known = self.offset.saturating_sub(chunk.offset);
                    let known = usize::try_from(known).unwrap_or(usize::MAX).min(chunk.data.len());
                    self.offset = self.offset.max(chunk.offset + chunk.data.len() as u64);
                    return Ok(Some(chunk.data[known..].to_vec()));
                }
                Ok(None) => return Ok(None),
                Err(status) => self.lost(&status).await?,
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<ReadOutputResponse>, Status> {
        if self.stream.is_none() {
            let request = ReadOutputRequest {
                session: self.session.clone(),
                from_offset: self.offset,
                follow: self.follow,
                limit_bytes: 0,
            };
            self.stream = Some(self.client.sessions.read_output(request).await?.into_inner());
        }
        match &mut self.stream {
            Some(stream) => stream.message().await,
            None => Ok(None),
        }
    }

    async fn lost(&mut self, status: &Status) -> Result<(), Failure> {
        self.stream = None;
        let since = self.away_since.get_or_insert_with(Instant::now);
        if !self.answered || !self.follow || !is_gone(status) || since.elapsed() > PATIENCE {
            return Err(self.client.failed(status));
        }
        if since.elapsed() < Duration::from_millis(50) {
            output::stderr_line("the controller is away, trying again");
        }
        tokio::time::sleep(self.backoff.next_delay()).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_offsets_however_they_are_cut() {
        let bytes = b"{\"a\":1}\nnot json \xff\r\n{\"b\":2}";
        let expected = vec![
            json!({ "offset": 0, "event": { "a": 1 } }),
            json!({ "offset": 8, "text": "not json \u{fffd}" }),
            json!({ "offset": 20, "event": { "b": 2 } }),
        ];
        for size in 1..bytes.len() {
            let mut lines = Lines { offset: 0, unfinished: Vec::new() };
            let mut records: Vec<Value> = bytes.chunks(size).flat_map(|chunk| lines.push(chunk)).collect();
            records.push(lines.take());
            assert_eq!(records, expected, "in pieces of {size}");
        }
    }
}
