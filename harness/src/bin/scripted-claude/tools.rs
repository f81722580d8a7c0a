//! The tools that really do something: a shell, reading and writing files.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::Sender,
};

use serde_json::Value;

use crate::inbox::Incoming;

/// How a tool ended, as the model is told.
#[derive(Debug, Clone)]
pub struct ToolEnd {
    pub text: String,
    pub is_error: bool,
    /// It never ran: the worker said no.
    pub denied: bool,
}

impl ToolEnd {
    pub fn said(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: false, denied: false }
    }

    pub fn failed(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: true, denied: false }
    }

    pub fn denied(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: true, denied: true }
    }
}

/// Starts `command` in a session of its own. Returns its process group; its end comes through the inbox.
///
/// Output goes to a file, not a pipe: a daemon the command leaves behind would hold a pipe open.
pub fn start_shell(command: &str, ended: Sender<Incoming>) -> std::io::Result<i32> {
    let output = tempfile::tempfile()?;
    // setsid(1) becomes the shell itself: it forks only when it leads a group, and a new child does not.
    let child = Command::new("setsid")
        .args(["bash", "-c", command])
        .env("CLAUDECODE", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()?;
    let group = child.id().cast_signed();
    let wait = move || {
        let _ = ended.send(Incoming::ToolEnded(shell_end(child, output)));
    };
    std::thread::Builder::new().name("tool".to_owned()).spawn(wait)?;
    Ok(group)
}

fn shell_end(mut child: Child, mut output: File) -> ToolEnd {
    let status = child.wait();
    let mut bytes = Vec::new();
    let _ = output.rewind().and_then(|()| output.read_to_end(&mut bytes));
    let said = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    match status {
        Ok(status) if status.success() => {
            ToolEnd::said(if said.is_empty() { "(Bash completed with no output)".to_owned() } else { said })
        }
        Ok(status) => ToolEnd::failed(format!("Exit code {}\n{said}", status.code().unwrap_or(-1))),
        Err(error) => ToolEnd::failed(error.to_string()),
    }
}

/// Runs a tool that ends at once.
pub fn at_once(name: &str, input: &Value) -> ToolEnd {
    let path = input["file_path"].as_str().unwrap_or_default();
    let done = match name {
        "Write" => write(Path::new(path), input["content"].as_str().unwrap_or_default()),
        "Read" => fs::read_to_string(path),
        _ => Err(std::io::Error::other(format!("No such tool available: {name}"))),
    };
    match done {
        Ok(text) => ToolEnd::said(text),
        Err(error) => ToolEnd::failed(error.to_string()),
    }
}

fn write(path: &Path, content: &str) -> std::io::Result<String> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)?;
    Ok(format!("File created successfully at: {}", path.display()))
}
