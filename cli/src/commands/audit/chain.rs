//! The chain of the audit log, computed from its bytes: each record holds the hash of the one before. Pure.

use std::str::FromStr;

use muster_proto::v1::{AuditEntry, AuditRecord};
use prost::Message as _;

/// A record whose hash was kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    seq: u64,
    hash: String,
}

impl FromStr for Anchor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is not SEQ:HASH, as --verify prints it");
        let (seq, hash) = text.split_once(':').ok_or_else(refused)?;
        let seq = seq.parse().map_err(|_| refused())?;
        if hash.len() != 64 || !hash.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(refused());
        }
        Ok(Self { seq, hash: hash.to_ascii_lowercase() })
    }
}

/// What was found whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    pub first: u64,
    pub last: u64,
    pub records: u64,
    /// Of the last.
    pub hash: String,
}

/// As far as it was followed.
#[derive(Debug)]
pub struct Chain {
    anchors: Vec<Anchor>,
    first: u64,
    last: u64,
    records: u64,
    hash: Vec<u8>,
}

impl Chain {
    /// Before the first record.
    pub const fn new(anchors: Vec<Anchor>) -> Self {
        Self { anchors, first: 0, last: 0, records: 0, hash: Vec::new() }
    }

    /// The next record; gives its number, or what does not hold.
    pub fn take(&mut self, entry: &AuditEntry) -> Result<u64, String> {
        let computed = ring::digest::digest(&ring::digest::SHA256, &entry.record);
        let after = format!("the record after {}", self.last);
        let record = AuditRecord::decode(&*entry.record).map_err(|_| format!("{after} cannot be read"))?;
        let seq = record.seq;
        if computed.as_ref() != &*entry.hash {
            return Err(format!("record {seq} is not what its hash says"));
        }
        if self.records > 0 && seq != self.last + 1 {
            return Err(format!("after record {} comes {seq}", self.last));
        }
        if self.records > 0 && record.previous_hash != self.hash {
            return Err(format!("record {seq} does not follow the record before it"));
        }
        if seq == 1 && !record.previous_hash.is_empty() {
            return Err("record 1 follows one that is gone".to_owned());
        }
        let hash = hex(&entry.hash);
        if self.anchors.iter().any(|anchor| anchor.seq == seq && anchor.hash != hash) {
            return Err(format!("record {seq} is another than the one known"));
        }
        self.anchors.retain(|anchor| anchor.seq != seq);
        if self.records == 0 {
            self.first = seq;
        }
        (self.last, self.hash) = (seq, entry.hash.clone());
        self.records += 1;
        Ok(seq)
    }

    /// After the last record.
    pub fn finish(self) -> Result<Whole, String> {
        if let Some(missing) = self.anchors.first() {
            return Err(format!("record {}, which is known, is not there", missing.seq));
        }
        let Self { first, last, records, hash, .. } = self;
        Ok(Whole { first, last, records, hash: hex(&hash) })
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(records: u64) -> Vec<AuditEntry> {
        let mut previous = Vec::new();
        let entry = |seq| {
            let previous_hash = std::mem::take(&mut previous);
            let record = AuditRecord { seq, previous_hash, action: "x".into(), ..AuditRecord::default() };
            let record = record.encode_to_vec();
            let hash = ring::digest::digest(&ring::digest::SHA256, &record).as_ref().to_vec();
            previous.clone_from(&hash);
            AuditEntry { record, hash }
        };
        (1..=records).map(entry).collect()
    }

    fn verdict(log: &[AuditEntry], anchors: Vec<Anchor>) -> Result<Whole, String> {
        let mut chain = Chain::new(anchors);
        for entry in log {
            chain.take(entry)?;
        }
        chain.finish()
    }

    #[test]
    fn a_log_nobody_touched_holds_also_from_its_middle() {
        let whole = verdict(&log(5), Vec::new()).expect("whole");
        assert_eq!((whole.first, whole.last, whole.records), (1, 5, 5));
        assert_eq!(verdict(&log(5)[2..], Vec::new()).expect("whole").first, 3);
        assert_eq!(verdict(&[], Vec::new()).expect("whole").records, 0);
    }

    #[test]
    fn a_record_that_was_changed_taken_out_or_put_elsewhere_is_named() {
        let good = log(5);
        let mut changed = good.clone();
        let mut record = AuditRecord::decode(&*changed[2].record).expect("reads");
        record.subject = "another".into();
        changed[2].record = record.encode_to_vec();
        assert!(verdict(&changed, Vec::new()).expect_err("changed").contains("record 3 is not"));
        // With a new hash as well, the one after gives it away.
        changed[2].hash = ring::digest::digest(&ring::digest::SHA256, &changed[2].record).as_ref().to_vec();
        assert!(verdict(&changed, Vec::new()).expect_err("changed").contains("record 4 does not follow"));
        let mut gap = good;
        gap.remove(1);
        assert!(verdict(&gap, Vec::new()).expect_err("a gap").contains("after record 1 comes 3"));
    }

    #[test]
    fn a_hash_kept_elsewhere_shows_a_log_written_anew_and_one_cut_short() {
        let good = log(3);
        let anchor: Anchor = format!("3:{}", hex(&good[2].hash)).parse().expect("an anchor");
        assert!(verdict(&good, vec![anchor.clone()]).is_ok());
        assert!(verdict(&good[..2], vec![anchor]).expect_err("cut").contains("record 3, which is known"));
        let other: Anchor = format!("3:{}", "0f".repeat(32)).parse().expect("an anchor");
        assert!(verdict(&good, vec![other]).expect_err("anew").contains("another than the one known"));
        assert!("3".parse::<Anchor>().is_err() && "x:00".parse::<Anchor>().is_err());
    }
}
