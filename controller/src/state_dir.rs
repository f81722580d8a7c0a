//! The controller's folder, and the lock that keeps a second controller out of it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// The folder, locked while this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: File,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It is missing and cannot be made, or it is no folder.
    #[error("the state folder {path} cannot be made: {source}")]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there and cannot be written to.
    #[error("the state folder {path} cannot be written to: {source}")]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another controller has it.
    #[error("the state folder {path} is in use by another controller; stop it, or choose another folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl StateDir {
    /// Makes the folder when it is missing, and locks it.
    ///
    /// # Errors
    /// See [`StateDirError`]; each names the folder.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let make = |source| StateDirError::Make { path: path.to_owned(), source };
        let write = |source| StateDirError::Write { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(make)?;
        let file = path.join("controller.lock");
        let mut lock =
            OpenOptions::new().write(true).create(true).truncate(false).open(file).map_err(write)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateDirError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(write(source)),
        }
        // Tells people who has it, and proves that the folder can be written to. A disk that is full is no
        // reason to stay away: what is there can be read, and there may be room later.
        match lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                tracing::error!(path = %path.display(), error = %error,
                    "the disk of the state folder is full: no new work is taken until there is room");
            }
            written => written.map_err(write)?,
        }
        Ok(Self { path: path.to_owned(), lock })
    }

    /// A folder or file within.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Closing would do, but for a child that another part of the process is starting just now: until it
        // has become another program it has the file open too. One that cannot be freed goes with the process.
        let _ = self.lock.unlock();
    }
}
