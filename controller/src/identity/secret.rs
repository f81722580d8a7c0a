//! Secrets: made from the system's randomness, kept as a keyed hash, compared in constant time.
//!
//! The key of the hash is a file beside the store: whoever has a copy of the store alone can neither use nor
//! test a token.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

/// Bytes of a secret, and of the key.
const BYTES: usize = 32;
/// Bytes of an id: unique, no secret.
const ID_BYTES: usize = 6;

/// Hashes secrets.
pub(super) struct Hasher(hmac::Key);

impl Hasher {
    /// With the key in `path`, made when there is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let key = match read_private(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = random::<BYTES>()?;
                write_private(path, &key)?;
                key.to_vec()
            }
            read => read?,
        };
        if key.len() != BYTES {
            return Err(io::Error::other(format!("it has {} bytes, not {BYTES}", key.len())));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    pub(super) fn hash(&self, secret: &str) -> Vec<u8> {
        hmac::sign(&self.0, secret.as_bytes()).as_ref().to_vec()
    }

    pub(super) fn matches(&self, secret: &str, hash: &[u8]) -> bool {
        hmac::verify(&self.0, secret.as_bytes(), hash).is_ok()
    }
}

/// A new secret, in hexadecimal.
pub(super) fn secret() -> io::Result<String> {
    random::<BYTES>().map(|bytes| hex(&bytes))
}

/// A new id, in hexadecimal.
pub(super) fn id() -> io::Result<String> {
    random::<ID_BYTES>().map(|bytes| hex(&bytes))
}

pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system gives no randomness"))?;
    Ok(bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file that nobody else may read.
pub(super) fn read_private(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        let problem =
            format!("its mode is {:o}: others may read it, which must not be (chmod 600)", mode & 0o777);
        return Err(io::Error::other(problem));
    }
    Ok(bytes)
}

/// Writes a file that nobody else may read: whole or not at all, durable before it returns.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    // One that a crash left may have any mode.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_kept_private_and_hashes_hold_over_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("key");
        let secret = secret().expect("random");
        let hash = Hasher::open(&path).expect("made").hash(&secret);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let again = Hasher::open(&path).expect("read");
        assert!(again.matches(&secret, &hash) && !again.matches("other", &hash));
        let other = Hasher::open(&dir.path().join("other")).expect("made");
        assert!(!other.matches(&secret, &hash), "a store without its key is worth nothing");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        let error = Hasher::open(&path).map(drop).expect_err("refused").to_string();
        assert!(error.contains("644"), "{error}");
    }
}
