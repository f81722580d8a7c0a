//! stderr in a file while the terminal belongs to the live view: what the parts log would tear the picture.

use std::{fs, path::Path};

use crate::failure::{Exit, Failure};

/// The log begins anew past this size.
const LOG_BYTES: u64 = 10 << 20;

/// stderr in a file, until dropped.
pub struct Redirected {
    stderr: std::os::fd::OwnedFd,
}

impl Redirected {
    /// Sends stderr to the end of `log`.
    pub fn to(log: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::new(Exit::Failed, format!("log {} cannot be written", log.display())).caused_by(error)
        };
        if fs::metadata(log).is_ok_and(|about| about.len() > LOG_BYTES) {
            fs::remove_file(log).map_err(|error| failed(&error))?;
        }
        let file =
            fs::OpenOptions::new().create(true).append(true).open(log).map_err(|error| failed(&error))?;
        let stderr = nix::unistd::dup(std::io::stderr()).map_err(|error| failed(&error))?;
        nix::unistd::dup2_stderr(&file).map_err(|error| failed(&error))?;
        Ok(Self { stderr })
    }
}

impl Drop for Redirected {
    fn drop(&mut self) {
        // When even this fails there is no stderr left to say so on.
        let _ = nix::unistd::dup2_stderr(&self.stderr);
    }
}
