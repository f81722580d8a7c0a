//! What a machine keeps of having joined, readable by its owner only:
//!
//! ```text
//! <state_dir>/identity/      0700
//!   member.json              Membership: address, name, key, certificate, roots
//!   next.key                 a key that was sent and whose certificate has not come yet; the same one is sent again
//! ```
//! Written whole or not at all. Published formats: a field is only ever added.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use muster_proto::ids::WorkerId;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

/// Format of `member.json`.
const VERSION: u32 = 1;

/// A machine's own key: P-256, PKCS #8, DER.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key(Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Being a worker of a farm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The name it has there.
    pub worker: WorkerId,
    /// Where the controller is, `host:port`.
    pub address: String,
    pub(super) key: Key,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// When this machine got the certificate, by its own clock.
    pub(super) obtained_at: SystemTime,
    /// How long the certificate is good for from then, whatever clocks say.
    pub(super) life: Duration,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    worker: WorkerId,
    address: String,
    key: String,
    certificate: String,
    roots: Vec<String>,
    obtained_at_unix_seconds: u64,
    life_seconds: u64,
}

/// A membership that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The disk.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// What is there cannot be used.
    #[error("{0} cannot be used: {1}; join again with a new token")]
    Unusable(PathBuf, String),
}

impl Key {
    /// A new one.
    pub(super) fn generate() -> Result<Self, String> {
        KeyPair::generate().map(|pair| Self(pair.serialize_der())).map_err(|error| error.to_string())
    }

    fn pair(&self) -> Result<KeyPair, String> {
        KeyPair::try_from(self.0.as_slice()).map_err(|error| error.to_string())
    }

    /// A request for a certificate, PKCS #10, DER.
    pub(super) fn request(&self) -> Result<Vec<u8>, String> {
        let request = CertificateParams::default().serialize_request(&self.pair()?);
        request.map(|request| request.der().to_vec()).map_err(|error| error.to_string())
    }

    /// Whether a certificate is of this key.
    pub(super) fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
        self.pair().is_ok_and(|pair| pair.subject_public_key_info() == parsed.public_key().raw)
    }

    pub(super) fn for_tls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.clone().into())
    }
}

impl Membership {
    /// That of the worker whose state folder this is; `None`: it has not joined.
    ///
    /// # Errors
    /// [`StoredError`] when there is one that cannot be read.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, StoredError> {
        let path = folder(state_dir).join("member.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoredError::File(path, error)),
        };
        let parsed = parse(&bytes);
        parsed.map(Some).map_err(|reason| StoredError::Unusable(path, reason))
    }

    /// Makes it durable.
    pub(super) fn store(&self, state_dir: &Path) -> Result<(), StoredError> {
        let obtained = self.obtained_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let file = File {
            version: VERSION,
            worker: self.worker.clone(),
            address: self.address.clone(),
            key: BASE64_STANDARD.encode(&self.key.0),
            certificate: BASE64_STANDARD.encode(&self.certificate),
            roots: self.roots.iter().map(|root| BASE64_STANDARD.encode(root)).collect(),
            obtained_at_unix_seconds: obtained.as_secs(),
            life_seconds: self.life.as_secs(),
        };
        let path = folder(state_dir).join("member.json");
        let bytes = serde_json::to_vec_pretty(&file)
            .map_err(|error| StoredError::File(path.clone(), error.into()))?;
        write_private(&path, &bytes).map_err(|error| StoredError::File(path, error))
    }
}

fn parse(bytes: &[u8]) -> Result<Membership, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!("it has version {}, this muster knows {VERSION}", file.version));
    }
    let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|error| error.to_string());
    let roots = file.roots.iter().map(|root| decode(root).map(CertificateDer::from));
    let membership = Membership {
        worker: file.worker,
        address: file.address,
        key: Key(decode(&file.key)?),
        certificate: decode(&file.certificate)?.into(),
        roots: roots.collect::<Result<_, _>>()?,
        obtained_at: UNIX_EPOCH + Duration::from_secs(file.obtained_at_unix_seconds),
        life: Duration::from_secs(file.life_seconds),
    };
    if !membership.key.is_of(&membership.certificate) {
        return Err("its certificate is not of its key".to_owned());
    }
    Ok(membership)
}

/// The key whose certificate has not come yet; made and made durable when there is none.
pub(super) fn next_key(state_dir: &Path) -> Result<Key, StoredError> {
    let path = folder(state_dir).join("next.key");
    if let Ok(bytes) = fs::read(&path) {
        let key = Key(bytes);
        if key.pair().is_ok() {
            return Ok(key);
        }
    }
    let key = Key::generate().map_err(|reason| StoredError::Unusable(path.clone(), reason))?;
    write_private(&path, &key.0).map_err(|error| StoredError::File(path, error))?;
    Ok(key)
}

/// The certificate has come and is stored.
pub(super) fn forget_next_key(state_dir: &Path) {
    let _ = fs::remove_file(folder(state_dir).join("next.key")); // sent once more, it is a key as good as any
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("identity")
}

/// As [`crate::shim::files::write_durably`], for its owner only.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a file needs a folder"))?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn membership() -> Membership {
        let key = Key::generate().expect("a key");
        let certificate =
            CertificateParams::default().self_signed(&key.pair().expect("a key")).expect("signed");
        let certificate: CertificateDer<'static> = certificate.der().clone();
        Membership {
            worker: "w1".parse().expect("a name"),
            address: "farm.example:7421".to_owned(),
            key,
            roots: vec![certificate.clone()],
            certificate,
            obtained_at: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            life: Duration::from_secs(86_400),
        }
    }

    #[test]
    fn it_is_kept_whole_and_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Membership::load(dir.path()).expect("none yet"), None);
        let member = membership();
        member.store(dir.path()).expect("stored");
        member.store(dir.path()).expect("stored again");
        assert_eq!(Membership::load(dir.path()).expect("read"), Some(member.clone()));
        let key = next_key(dir.path()).expect("made");
        assert_eq!(next_key(dir.path()).expect("found"), key, "the same one is sent again");
        let mode =
            |name: &str| fs::metadata(dir.path().join(name)).expect("there").permissions().mode() & 0o777;
        assert_eq!(
            (mode("identity"), mode("identity/member.json"), mode("identity/next.key")),
            (0o700, 0o600, 0o600)
        );
        forget_next_key(dir.path());
        assert_ne!(next_key(dir.path()).expect("made"), key);
        assert!(!format!("{member:?}").contains(&BASE64_STANDARD.encode(&member.key.0)));
    }

    #[test]
    fn what_cannot_be_used_says_so_and_a_later_format_too() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("identity/member.json");
        membership().store(dir.path()).expect("stored");
        let whole = fs::read_to_string(&path).expect("there");
        for (text, says) in [
            (whole.replace("\"version\": 1", "\"version\": 9"), "version 9"),
            (whole[..40].to_owned(), "join again"),
        ] {
            fs::write(&path, text).expect("written");
            let error = Membership::load(dir.path()).expect_err("unusable").to_string();
            assert!(error.contains(says), "{error}");
        }
        // The key of another machine.
        let other = tempfile::tempdir().expect("a folder");
        let mixed = Membership { key: membership().key, ..membership() };
        mixed.store(other.path()).expect("stored");
        let error = Membership::load(other.path()).expect_err("unusable").to_string();
        assert!(error.contains("not of its key"), "{error}");
    }
}
