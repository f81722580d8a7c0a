//! What the program was really given, for tests to look at: `$MUSTER_WITNESS/<session id>.jsonl`.

use std::{fs, io::Write as _, path::PathBuf, time::SystemTime};

use muster_harness::said::Record;
use serde_json::{Value, json};

/// Writes nothing when the environment names no folder.
#[derive(Debug, Clone)]
pub struct Witness {
    file: Option<PathBuf>,
}

impl Witness {
    /// Notes the start: argv, folder, names of the environment, pid.
    pub fn open(session_id: &str) -> Self {
        let file = std::env::var_os("MUSTER_WITNESS")
            .map(|dir| PathBuf::from(dir).join(format!("{session_id}.jsonl")));
        let witness = Self { file };
        if witness.file.is_some() {
            let names: Vec<String> =
                std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
            let cwd = std::env::current_dir().unwrap_or_default();
            let parent = fs::read(format!("/proc/{}/cmdline", nix::unistd::getppid())).unwrap_or_default();
            let parent = String::from_utf8_lossy(&parent).replace('\0', " ");
            witness.note(&json!({ "start": { "argv": std::env::args().collect::<Vec<_>>(), "cwd": cwd,
                "environment": names, "pid": std::process::id(), "parent": parent.trim_end(),
                "alone": witness.alone(), "unixMicros": unix_micros() } }));
        }
        witness
    }

    /// Where all that is said is recorded when `MUSTER_SAID` asks for it: one file a process, beside the
    /// witness.
    pub fn said(session_id: &str) -> std::io::Result<Option<Record>> {
        let Some(folder) = std::env::var_os("MUSTER_WITNESS") else { return Ok(None) };
        if std::env::var_os("MUSTER_SAID").is_none() {
            return Ok(None);
        }
        let name = format!("{session_id}.{}.{}.said", unix_micros(), std::process::id());
        Record::create(&PathBuf::from(folder).join(name)).map(Some)
    }

    /// Whether no other process of this session lives: the lock is held until this one is gone.
    fn alone(&self) -> bool {
        let Some(file) = &self.file else { return true };
        let Ok(lock) = fs::File::create(file.with_extension("lock")) else { return true };
        let alone = lock.try_lock().is_ok();
        std::mem::forget(lock);
        alone
    }

    /// Notes a line of stdin, exactly.
    pub fn line(&self, line: &[u8]) {
        self.note(&json!({ "line": String::from_utf8_lossy(line) }));
    }

    /// Notes that something happened just now, by the wall clock: other processes compare it with theirs.
    pub fn moment(&self, what: &str) {
        if self.file.is_some() {
            self.note(&json!({ "moment": what, "unixMicros": unix_micros() }));
        }
    }

    fn note(&self, note: &Value) {
        let Some(file) = &self.file else { return };
        let opened = fs::OpenOptions::new().create(true).append(true).open(file);
        // A test that finds no witness fails on its own; the session must not.
        let _ = opened.and_then(|mut file| file.write_all(format!("{note}\n").as_bytes()));
    }
}

fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
