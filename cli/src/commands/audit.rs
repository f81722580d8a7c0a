//! `muster audit`: who did what, for whom, and whether it was allowed; and the proof that nothing of it was changed.
//!
//! Invariant of `--verify`: what it calls whole it has computed itself, from bytes, record by record.

mod chain;

use std::time::{Duration, Instant};

use clap::Args;
use muster_proto::v1::{AuditEntry, AuditRecord, AuditVerdict, ReadAuditRequest, ReadAuditResponse};
use muster_runtime::backoff::Backoff;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{Status, Streaming};

use self::chain::{Anchor, Chain, hex};
use crate::{
    args::Remote,
    client::{Client, is_gone},
    failure::{Exit, Failure},
    output::{self, Output},
    show,
};

/// How long a controller that went away while we follow may stay away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct Options {
    /// Stay and show what comes
    #[arg(short, long)]
    follow: bool,
    /// Begin at this record [default: the oldest kept]
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    since: u64,
    /// At most so many records
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    limit: u64,
    /// Compute the chain of hashes anew instead of showing records, and say whether it holds
    #[arg(long, conflicts_with = "follow")]
    verify: bool,
    /// With --verify: a record known from before, and the hash it had; repeat for several
    #[arg(long, value_name = "SEQ:HASH", requires = "verify")]
    known: Vec<Anchor>,
    #[command(flatten)]
    remote: Remote,
}

/// Shows or verifies.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let mut reader = Reader {
        client,
        next: options.since,
        left: (options.limit > 0).then_some(options.limit),
        follow: options.follow,
        stream: None,
        answered: false,
        away_since: None,
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
    };
    if options.verify {
        return verify(&mut reader, options.known, output).await;
    }
    while let Some(entries) = reader.next().await? {
        let mut text = String::new();
        for entry in entries {
            let record = decoded(&entry)?;
            reader.next = record.seq + 1;
            if output.json {
                text.push_str(&format!("{}\n", document(&record, &entry.hash)));
            } else {
                text.push_str(&line(&record, output.terminal));
            }
        }
        output.bytes(text.as_bytes())?;
    }
    Ok(Exit::Ok)
}

async fn verify(reader: &mut Reader, known: Vec<Anchor>, output: Output) -> Result<Exit, Failure> {
    let mut chain = Chain::new(known);
    while let Some(entries) = reader.next().await? {
        for entry in entries {
            reader.next = chain.take(&entry).map_err(|what| broken(&what))? + 1;
        }
    }
    let whole = chain.finish().map_err(|what| broken(&what))?;
    if output.json {
        output.document(&json!({
            "holds": true,
            "firstSeq": whole.first,
            "lastSeq": whole.last,
            "records": whole.records,
            "lastHash": whole.hash,
        }))?;
    } else if whole.records == 0 {
        output.line("the audit log is empty")?;
    } else {
        let (first, last, hash) = (whole.first, whole.last, &whole.hash);
        output.line(&format!("records {first} to {last} are whole; the last has the hash\n{last}:{hash}"))?;
        output.note("keep that line elsewhere: --known proves later that nothing up to it was changed");
    }
    Ok(Exit::Ok)
}

fn broken(what: &str) -> Failure {
    Failure::new(Exit::Failed, format!("the audit log does not hold: {what}"))
        .hint("somebody changed it, or its disk did: compare it with an export or a backup")
}

fn decoded(entry: &AuditEntry) -> Result<AuditRecord, Failure> {
    AuditRecord::decode(&*entry.record)
        .map_err(|error| Failure::new(Exit::Failed, "an audit record cannot be read").caused_by(&error))
}

/// `allowed`.
fn verdict(verdict: AuditVerdict) -> String {
    verdict.as_str_name().trim_start_matches("AUDIT_VERDICT_").to_ascii_lowercase()
}

/// A record in a line: columns for programs, a sentence for people.
fn line(record: &AuditRecord, terminal: bool) -> String {
    let verdict = verdict(record.verdict());
    let role = show::role(record.role());
    if terminal {
        let caller = match (record.caller.as_str(), record.on_behalf_of.as_str()) {
            ("", _) => "nobody".to_owned(),
            (caller, "") => caller.to_owned(),
            (caller, behalf) => format!("{caller} for {behalf}"),
        };
        let mut text = format!(
            "{:>6}  {}  {verdict:<7}  {} ({role})  {} {}",
            record.seq,
            show::second(record.at.as_ref()),
            show::line(&caller),
            show::line(&record.action),
            show::line(&record.subject),
        );
        for more in [&record.code, &record.detail, &record.peer] {
            if !more.is_empty() {
                text.push_str(&format!("  {}", show::line(more)));
            }
        }
        return format!("{}\n", text.trim_end());
    }
    let columns = [
        record.seq.to_string(),
        show::moment(record.at.as_ref()),
        verdict,
        show::line(&record.caller),
        role,
        show::line(&record.on_behalf_of),
        show::line(&record.action),
        show::line(&record.subject),
        show::line(&record.code),
        show::line(&record.detail),
        show::line(&record.peer),
    ];
    format!("{}\n", columns.join("\t"))
}

/// A record as docs/cli.md publishes it.
fn document(record: &AuditRecord, hash: &[u8]) -> Value {
    let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
    json!({
        "seq": record.seq,
        "at": record.at.as_ref().map(ToString::to_string),
        "verdict": verdict(record.verdict()),
        "caller": text(&record.caller),
        "role": show::role(record.role()),
        "onBehalfOf": text(&record.on_behalf_of),
        "action": record.action,
        "subject": text(&record.subject),
        "code": text(&record.code),
        "detail": text(&record.detail),
        "peer": text(&record.peer),
        "previousHash": text(&hex(&record.previous_hash)),
        "hash": hex(hash),
    })
}

/// Records in order, over as many streams as it takes.
struct Reader {
    client: Client,
    /// The next to ask for.
    next: u64,
    left: Option<u64>,
    follow: bool,
    stream: Option<Streaming<ReadAuditResponse>>,
    answered: bool,
    away_since: Option<Instant>,
    backoff: Backoff,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Vec<AuditEntry>>, Failure> {
        if self.left == Some(0) {
            return Ok(None);
        }
        loop {
            match self.receive().await {
                Ok(Some(response)) => {
                    self.answered = true;
                    self.away_since = None;
                    self.backoff.reset();
                    let mut entries = response.entries;
                    if let Some(left) = &mut self.left {
                        entries.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                        *left -= entries.len() as u64;
                    }
                    return Ok(Some(entries));
                }
                Ok(None) if !self.follow => return Ok(None),
                Ok(None) => self.lost(&Status::unavailable("the controller ended the stream")).await?,
                Err(status) => self.lost(&status).await?,
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<ReadAuditResponse>, Status> {
        if self.stream.is_none() {
            let (from_seq, limit) = (self.next, self.left.unwrap_or(0));
            let request = ReadAuditRequest { from_seq, follow: self.follow, limit };
            self.stream = Some(self.client.audit.read_audit(request).await?.into_inner());
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
