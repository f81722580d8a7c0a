//! What the program was really given, for tests to look at: `$MUSTER_WITNESS/<session id>.jsonl`.

use std::{fs, io::Write as _, path::PathBuf, time::SystemTime};

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
            witness.note(&json!({ "start": { "argv": std::env::args().collect::<Vec<_>>(), "cwd": cwd,
                "environment": names, "pid": std::process::id() } }));
        }
        witness
    }

    /// Notes a line of stdin, exactly.
    pub fn line(&self, line: &[u8]) {
        self.note(&json!({ "line": String::from_utf8_lossy(line) }));
    }

    /// Notes that something happened just now, by the wall clock: other processes compare it with theirs.
    pub fn moment(&self, what: &str) {
        if self.file.is_some() {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.note(&json!({ "moment": what, "unixMicros": since.as_micros() as u64 }));
        }
    }

    fn note(&self, note: &Value) {
        let Some(file) = &self.file else { return };
        let opened = fs::OpenOptions::new().create(true).append(true).open(file);
        // A test that finds no witness fails on its own; the session must not.
        let _ = opened.and_then(|mut file| file.write_all(format!("{note}\n").as_bytes()));
    }
}
