//! The file that makes `--resume` possible, where the real program keeps its own.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

/// `<config>/projects/<slug of the folder>/<session id>.jsonl`; made with the first message.
#[derive(Debug)]
pub struct Transcript {
    file: Option<PathBuf>,
    /// Where a plan is written in plan mode.
    pub plan_file: PathBuf,
}

impl Transcript {
    /// Of this session in this folder. Without a home nothing is kept.
    pub fn of(session_id: &str, folder: &Path) -> Self {
        let config = std::env::var_os("CLAUDE_CONFIG_DIR").map(PathBuf::from);
        let config =
            config.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".claude")));
        let slug = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let slug: String = folder.to_string_lossy().chars().map(slug).collect();
        let plans = config.clone().unwrap_or_else(std::env::temp_dir).join("plans");
        let file =
            config.map(|config| config.join("projects").join(slug).join(format!("{session_id}.jsonl")));
        Self { file, plan_file: plans.join(format!("{session_id}.md")) }
    }

    pub fn exists(&self) -> bool {
        self.file.as_deref().is_some_and(Path::exists)
    }

    pub fn add(&self, role: &str, content: &Value) {
        let Some(file) = &self.file else { return };
        let entry = json!({ "type": role, "message": { "role": role, "content": content },
            "version": crate::VERSION });
        let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
        let opened = folder.and_then(|()| fs::OpenOptions::new().create(true).append(true).open(file));
        let _ = opened.and_then(|mut file| file.write_all(format!("{entry}\n").as_bytes()));
    }
}
