//! `muster logs`: what a session said and did, as text, as bytes, or as NDJSON.
//!
//! Invariant: bytes are taken by offset, so that a reconnect neither repeats nor loses one.

use std::{
    borrow::Cow,
    collections::VecDeque,
    time::{Duration, Instant},
};

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
/// How far back `--tail` looks at first; further when too few lines are in it, up to `TAIL_BYTES`.
const FIRST_LOOK: u64 = 256 << 10;
/// How far back it looks at most: output that shows nothing can be long.
const TAIL_BYTES: u64 = 64 << 20;

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
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
    /// Only the last lines, this many, of what is there; with --follow also what comes
    #[arg(long, value_name = "N", conflicts_with = "from")]
    tail: Option<usize>,
    #[command(flatten)]
    remote: Remote,
}

/// Shows output.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let (mut form, mut reader) = match options.tail {
        None => {
            let reader = Reader::new(client, &options.session, options.from, options.follow);
            (Form::new(&options, options.from), reader)
        }
        Some(lines) => {
            let session = client.clone().session(&options.session).await?;
            let end = session.output_end_offset;
            let new_form = |offset| Form::new(&options, offset);
            let (mut form, mut tail) =
                last_lines(&client, &new_form, &session.session_id, end, lines).await?;
            if !options.follow {
                tail.push(&form.rest());
                return output.bytes(&tail.into_bytes()).map(|()| Exit::Ok);
            }
            output.bytes(&tail.into_bytes())?;
            (form, Reader::new(client, &session.session_id, end, true))
        }
    };
    while let Some(data) = reader.next().await? {
        output.bytes(&form.shown(&data))?;
    }
    output.bytes(&form.rest())?;
    Ok(Exit::Ok)
}

/// The last lines before `end` as they are shown, and the form that can go on there.
pub(super) async fn last_lines(
    client: &Client,
    new_form: &impl Fn(u64) -> Form,
    session: &str,
    end: u64,
    most: usize,
) -> Result<(Form, Tail), Failure> {
    let mut window = FIRST_LOOK;
    loop {
        let from = end.saturating_sub(window);
        let mut form = new_form(from);
        let mut tail = Tail { most, lines: VecDeque::new() };
        let mut reader = Reader::new(client.clone(), session, from, false);
        // A window begins anywhere in a line: its rest is left out.
        let mut fragment = from > 0;
        while reader.offset < end {
            let at = reader.offset;
            let Some(mut data) = reader.next().await? else { break };
            // What came after we asked for the end is for who follows.
            data.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
            if fragment {
                let Some(border) = data.iter().position(|byte| *byte == b'\n') else { continue };
                data.drain(..=border);
                form.begin_at(at + border as u64 + 1);
                fragment = false;
            }
            tail.push(&form.shown(&data));
        }
        if tail.lines.len() >= most || from == 0 || window >= TAIL_BYTES {
            return Ok((form, tail));
        }
        window *= 4;
    }
}

/// The last lines of what was pushed.
pub(super) struct Tail {
    most: usize,
    lines: VecDeque<Vec<u8>>,
}

impl Tail {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.lines.into_iter().flatten().collect()
    }

    fn push(&mut self, data: &[u8]) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            match self.lines.back_mut().filter(|line| !line.ends_with(b"\n")) {
                Some(unfinished) => unfinished.extend_from_slice(piece),
                None => self.lines.push_back(piece.to_vec()),
            }
            if self.lines.len() > self.most {
                self.lines.pop_front();
            }
        }
    }
}

/// Output as it is shown.
pub(super) enum Form {
    Raw,
    Text(Box<Transcript>),
    Lines(Lines),
}

/// The form for people.
pub(super) fn text_form() -> Form {
    Form::Text(Box::default())
}

impl Form {
    fn new(options: &Options, offset: u64) -> Self {
        if options.raw {
            Self::Raw
        } else if options.remote.json {
            Self::Lines(Lines { offset, unfinished: Vec::new() })
        } else {
            Self::Text(Box::default())
        }
    }

    /// The first bytes to come are those at `offset`.
    fn begin_at(&mut self, offset: u64) {
        if let Self::Lines(lines) = self {
            lines.offset = offset;
        }
    }

    /// What is to be printed of more bytes.
    pub(super) fn shown<'a>(&mut self, data: &'a [u8]) -> Cow<'a, [u8]> {
        match self {
            Self::Raw => Cow::Borrowed(data),
            Self::Text(transcript) => Cow::Owned(transcript.push(data).into_bytes()),
            Self::Lines(lines) => {
                Cow::Owned(lines.push(data).iter().flat_map(|record| line_of(record).into_bytes()).collect())
            }
        }
    }

    /// What is to be printed at the end.
    fn rest(&mut self) -> Vec<u8> {
        match self {
            Self::Lines(lines) if !lines.unfinished.is_empty() => line_of(&lines.take()).into_bytes(),
            _ => Vec::new(),
        }
    }
}

fn line_of(record: &Value) -> String {
    format!("{record}\n")
}

/// Bytes as one JSON object a line: `{"offset", "event"}`, or `{"offset", "text"}` for a line that is no
/// JSON.
pub(super) struct Lines {
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
pub(super) struct Reader {
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
    pub(super) fn new(client: Client, session: &str, offset: u64, follow: bool) -> Self {
        Self {
            client,
            session: session.to_owned(),
            follow,
            offset,
            stream: None,
            answered: false,
            away_since: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
        }
    }

    /// The next bytes; None at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
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
    fn the_last_lines_are_kept_however_they_are_cut() {
        let bytes = b"one\ntwo\n\nfour\nfi";
        for size in 1..bytes.len() {
            let mut tail = Tail { most: 3, lines: VecDeque::new() };
            bytes.chunks(size).for_each(|chunk| tail.push(chunk));
            assert_eq!(tail.into_bytes(), b"\nfour\nfi", "in pieces of {size}");
        }
        let mut none = Tail { most: 0, lines: VecDeque::new() };
        none.push(bytes);
        assert!(none.lines.is_empty());
    }

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
