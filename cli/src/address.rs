//! Where the farm of this user is: the state folder, and the address file by which verbs find a running
//! `muster up`.
//!
//! Written by `up`, read by every verb and by `muster mcp`. The file is a hint, never a truth: a farm that
//! was killed leaves it behind, and a verb that then finds nobody says so.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

/// Where a controller listens unless told otherwise.
pub const DEFAULT_CONTROLLER: &str = "http://127.0.0.1:7420";
const ADDRESS_FILE: &str = "address.json";

/// How to reach a farm that `muster up` started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// gRPC, e.g. `http://127.0.0.1:7420`.
    pub controller: String,
    /// MCP over HTTP, e.g. `http://127.0.0.1:7421/mcp`.
    pub mcp: String,
    /// Process id of `muster up`.
    pub pid: u32,
}

impl Address {
    /// Reads the address file of the state folder `root`; None when there is none or it is not one.
    pub fn read(root: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(root.join(ADDRESS_FILE)).ok()?).ok()
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        write_atomically(&root.join(ADDRESS_FILE), &serde_json::to_vec(self)?)
    }

    /// Removes the address file; a missing one is fine.
    pub fn remove(root: &Path) {
        let _ = fs::remove_file(root.join(ADDRESS_FILE));
    }
}

/// A controller's address and how it was chosen, so that an error can say what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Ready to dial.
    pub uri: String,
    /// How it was chosen.
    pub by: FoundBy,
}

/// How a controller's address was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// Named by flag, environment or configuration file.
    Named,
    /// From the address file of a running farm.
    AddressFile,
    /// The default.
    Default,
}

/// The controller to talk to: the one named, else the running farm of this user, else the default.
pub fn find_controller(named: Option<&str>) -> Result<Found, Failure> {
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return Ok(Found { uri: uri(named)?, by: FoundBy::Named });
    }
    let farm = state_root().ok().and_then(|root| Address::read(&root));
    Ok(match farm {
        Some(address) => Found { uri: address.controller, by: FoundBy::AddressFile },
        None => Found { uri: DEFAULT_CONTROLLER.to_owned(), by: FoundBy::Default },
    })
}

/// `127.0.0.1:7420`, `http://127.0.0.1:7420` or `https://farm.example:7430` as a URI; anything else is refused with an
/// example.
pub fn uri(text: &str) -> Result<String, Failure> {
    let uri = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let refused = |why: &str| {
        Failure::usage(format!("controller address {text:?} {why}"))
            .hint("it looks like http://127.0.0.1:7420 on this machine, https://farm.example:7430 elsewhere")
    };
    let parsed: tonic::codegen::http::Uri = uri.parse().map_err(|_| refused("is not one"))?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err(refused("must begin with http:// or https://"));
    }
    if parsed.host().is_none_or(str::is_empty) || parsed.port_u16().is_none() {
        return Err(refused("needs a host and a port"));
    }
    if parsed.path() != "/" && !parsed.path().is_empty() || parsed.query().is_some() {
        return Err(refused("ends with its port"));
    }
    Ok(uri.trim_end_matches('/').to_owned())
}

/// Whether an address that [`uri`] took is of this machine: nobody else hears what is sent there.
pub fn is_local(uri: &str) -> bool {
    let parsed: Option<tonic::codegen::http::Uri> = uri.parse().ok();
    let host = parsed.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `$XDG_STATE_HOME/muster`, by default `~/.local/state/muster`.
pub fn state_root() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("muster"))
        .ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                "there is no state folder: neither XDG_STATE_HOME nor HOME is an absolute path",
            )
            .hint("name one with --state-dir")
        })
}

/// Replaces `path` by `contents`, so that a reader sees the old or the new and never half of one.
pub fn write_atomically(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.tmp", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let written = fs::File::create(&unfinished)
        .and_then(|mut file| {
            file.write_all(contents)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Tells whoever started us where we listen: `host:port` and a newline in `path`.
pub fn write_port_file(path: Option<&Path>, addr: std::net::SocketAddr) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    write_atomically(path, format!("{addr}\n").as_bytes()).map_err(|error| {
        Failure::new(Exit::Failed, format!("port file {} cannot be written", path.display()))
            .caused_by(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_with_and_without_scheme_and_refused_with_an_example() {
        assert_eq!(uri("127.0.0.1:7420").expect("taken"), "http://127.0.0.1:7420");
        assert_eq!(uri("http://[::1]:1").expect("taken"), "http://[::1]:1");
        assert_eq!(uri("https://farm.example:7430/").expect("taken"), "https://farm.example:7430");
        for bad in
            ["", "localhost", "http://", "https://a", "ftp://a:1", "http://a b:1", "127.0.0.1:99999", "a:1/x"]
        {
            let failure = uri(bad).expect_err(bad);
            assert_eq!(failure.exit, Exit::Usage, "{bad}");
            assert!(failure.hint.contains("http://127.0.0.1:7420"));
        }
    }

    #[test]
    fn this_machine_is_told_from_others_that_look_like_it() {
        for local in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["http://127.0.0.1.evil.example:1", "http://192.0.2.7:1", "https://farm.example:1"] {
            assert!(!is_local(other), "{other}");
        }
    }

    #[test]
    fn an_address_file_reads_back_and_leaves_nothing_else_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Address::read(folder.path()), None);
        let address =
            Address { controller: "http://127.0.0.1:1".into(), mcp: "http://127.0.0.1:2/mcp".into(), pid: 3 };
        address.write(folder.path()).expect("written");
        address.write(folder.path()).expect("written again");
        assert_eq!(Address::read(folder.path()), Some(address));
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
        Address::remove(folder.path());
        assert_eq!(Address::read(folder.path()), None);
    }
}
