//! Git bundles of sessions, as files on this machine.
//!
//! They lie in a folder of this process under the system's temporary one, which nobody else may enter. A
//! bundle that was cut off leaves no file.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use muster_proto::{
    error::{Error, ErrorCode},
    v1::Session,
};

use crate::controller::Controller;

/// Largest bundle taken.
const BYTES: u64 = 1 << 30;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Fetches the bundle of a session's work into a file of its own; gives the path and its length.
pub(crate) async fn fetch(controller: &Controller, session: &Session) -> Result<(PathBuf, u64), Error> {
    let folder = folder().map_err(|error| failed(&std::env::temp_dir(), &error))?;
    let unique = uuid::Uuid::new_v4().simple().to_string();
    // The handle is made of [a-z0-9-] by the controller; what is not stays out of a path all the same.
    let handle: String = session.handle.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let path = folder.join(format!("{handle}-{}.bundle", &unique[..8]));
    let written = write(controller, session, &path).await;
    if written.is_err() {
        let _ = fs::remove_file(&path);
    }
    Ok((path, written?))
}

async fn write(controller: &Controller, session: &Session, path: &Path) -> Result<u64, Error> {
    let mut file = File::create_new(path).map_err(|error| failed(path, &error))?;
    let mut bytes = 0_u64;
    let mut trouble = None;
    let take = |data: &[u8]| {
        bytes += data.len() as u64;
        if bytes > BYTES {
            let message = format!("the bundle is larger than {} MiB", BYTES >> 20);
            trouble = Some(Error::new(ErrorCode::LimitReached, message).hint("use action \"push_branch\""));
        } else if let Err(error) = file.write_all(data) {
            trouble = Some(failed(path, &error));
        }
        trouble.is_none()
    };
    controller.bundle(&session.session_id, take).await?;
    match trouble {
        Some(error) => Err(error),
        None => Ok(bytes),
    }
}

fn folder() -> io::Result<&'static Path> {
    if let Some(folder) = FOLDER.get() {
        return Ok(folder);
    }
    let folder = std::env::temp_dir().join(format!("muster-bundles-{}", uuid::Uuid::new_v4().simple()));
    DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(FOLDER.get_or_init(|| folder))
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::new(ErrorCode::Internal, format!("a bundle cannot be written to {}: {error}", path.display()))
        .hint("make room or set TMPDIR for the gateway, then call again")
}
