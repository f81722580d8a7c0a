//! The farm's own certificate authority: one root, and while it is changed a second that is only believed.
//!
//! Owns `<state>/ca/`: `root.key` (0600), `root.pem`, and `trust/*.pem`, roots that are believed and not signed
//! with. A key, or both, may be put there before the first start. To change it: put the new `root.pem`
//! into `trust/` and start; a day later, when every worker has renewed and so has heard of it, exchange the two
//! and start; a day later remove the old one. Invariant: nothing of a request but its public key ever gets into
//! a certificate.

use std::{
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use muster_proto::ids::WorkerId;
use muster_runtime::tls;
use prost_types::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use x509_parser::prelude::{GeneralName, ParsedExtension};

use super::secret;

/// What a worker's certificate says it is.
const WORKER_URI: &str = "spiffe://muster/worker/";
/// Life of a root.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Life of the controller's own certificate; a new one is made at two thirds.
const SERVER_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far clocks of a farm may be apart.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A root without its key.
    #[error("{0} is missing and its root is there; restore it from a backup")]
    Half(PathBuf),
    /// What is there is no key or no root.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// See the module.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// The one signed with first.
    roots: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ca")
    }
}

/// A key somebody proved to have.
#[derive(Debug)]
pub struct ProvenKey(rcgen::PublicKey);

impl ProvenKey {
    /// Out of a request, PKCS #10, DER. All else in it is ignored.
    ///
    /// # Errors
    /// When it is none, or its signature is not of its key.
    pub fn of_request(csr: &[u8]) -> Result<Self, String> {
        let parsed = CertificateSigningRequestParams::from_der(&csr.into());
        parsed.map(|parsed| Self(parsed.public_key)).map_err(|error| error.to_string())
    }

    /// What it is known by.
    #[must_use]
    pub fn hash(&self) -> Vec<u8> {
        digest(&self.0.subject_public_key_info())
    }
}

/// A worker as its certificate has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub worker: WorkerId,
    /// Hash of its key.
    pub key: Vec<u8>,
}

impl Ca {
    /// The authority in `folder`, made when there is none.
    ///
    /// # Errors
    /// See [`CaError`].
    pub fn open(folder: &Path) -> Result<Self, CaError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| CaError::File { path, source }
        };
        fs::create_dir_all(folder).map_err(file(folder))?;
        let unusable = |path: &Path, reason: String| CaError::Unusable { path: path.to_owned(), reason };
        let (key_path, root_path) = (folder.join("root.key"), folder.join("root.pem"));
        match (key_path.exists(), root_path.exists()) {
            (_, true) if !key_path.exists() => return Err(CaError::Half(key_path)),
            (false, _) => {
                let key = KeyPair::generate().map_err(|error| unusable(&key_path, error.to_string()))?;
                secret::write_private(&key_path, key.serialize_pem().as_bytes()).map_err(file(&key_path))?;
                tracing::info!(folder = %folder.display(),
                    "the farm's certificate authority is made; back it up");
            }
            (true, _) => {}
        }
        let key = secret::read_private(&key_path).map_err(file(&key_path))?;
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&key))
            .map_err(|error| unusable(&key_path, error.to_string()))?;
        if !root_path.exists() {
            // A key that was given, or a first start that was cut off.
            let root = make_root(&key).map_err(|error| unusable(&root_path, error.to_string()))?;
            secret::write_private(&root_path, root.as_bytes()).map_err(file(&root_path))?;
        }
        let root = read_root(&root_path)?;
        let is_its_key = key_hash(&root).as_ref() == Some(&digest(&key.subject_public_key_info()));
        if !is_its_key {
            return Err(unusable(&root_path, format!("it is not of the key {}", key_path.display())));
        }
        let issuer =
            Issuer::from_ca_cert_der(&root, key).map_err(|error| unusable(&root_path, error.to_string()))?;
        let mut roots = vec![root];
        let trust = folder.join("trust");
        if trust.exists() {
            for entry in fs::read_dir(&trust).map_err(file(&trust))? {
                let path = entry.map_err(file(&trust))?.path();
                if path.extension().is_some_and(|extension| extension == "pem") {
                    roots.push(read_root(&path)?);
                }
            }
        }
        Ok(Self { issuer, roots })
    }

    /// The roots that are believed, DER.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Hash of the key of the root, in hexadecimal: what a join token pins.
    #[must_use]
    pub fn pin(&self) -> String {
        self.roots.first().and_then(tls::pin_of).map_or_else(String::new, |pin| secret::hex(&pin))
    }

    /// A certificate for `worker`, client use only, and when it ends.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn worker(
        &self,
        worker: &WorkerId,
        key: &ProvenKey,
        life: Duration,
    ) -> Result<(CertificateDer<'static>, Timestamp), rcgen::Error> {
        let mut params = params(life)?;
        params.subject_alt_names = vec![SanType::URI(format!("{WORKER_URI}{worker}").try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let ends = Timestamp { seconds: params.not_after.unix_timestamp(), nanos: 0 };
        Ok((params.signed_by(&key.0, &self.issuer)?.der().clone(), ends))
    }

    /// A certificate of the controller's own, for `names`, with the root that clients may pin.
    fn server(&self, names: &[String]) -> Result<CertifiedKey, String> {
        let failed = |error: rcgen::Error| error.to_string();
        let mut params = params(SERVER_LIFE).map_err(failed)?;
        for name in names {
            let name = match name.parse::<IpAddr>() {
                Ok(addr) => SanType::IpAddress(addr),
                Err(_) => SanType::DnsName(name.clone().try_into().map_err(failed)?),
            };
            params.subject_alt_names.push(name);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.der().clone();
        let chain = std::iter::once(certificate).chain(self.roots.first().cloned()).collect();
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
        CertifiedKey::from_der(chain, key, &tls::provider()).map_err(|error| error.to_string())
    }
}

/// Serves TLS for `names` with certificates of `ca`, each replaced before it ends, and verifies those of
/// workers. Whoever shows none is let in for what needs none.
///
/// # Errors
/// In words; for a name that is none.
pub fn server_config(ca: Arc<Ca>, names: Vec<String>) -> Result<Arc<ServerConfig>, String> {
    let roots = tls::store(ca.roots().iter().cloned()).map_err(|error| error.to_string())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())?;
    let current = RwLock::new((Arc::new(ca.server(&names)?), renew_at()));
    let resolver = Arc::new(Serving { ca, names, current });
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The controller's certificate, a new one when it is time.
#[derive(Debug)]
struct Serving {
    ca: Arc<Ca>,
    names: Vec<String>,
    current: RwLock<(Arc<CertifiedKey>, SystemTime)>,
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (key, at) = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        if SystemTime::now() < at {
            return Some(key);
        }
        match self.ca.server(&self.names) {
            Ok(new) => {
                let new = Arc::new(new);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) =
                    (Arc::clone(&new), renew_at());
                Some(new)
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "the controller's certificate cannot be renewed; the old one serves on"
                );
                Some(key)
            }
        }
    }
}

fn renew_at() -> SystemTime {
    SystemTime::now() + SERVER_LIFE * 2 / 3
}

/// Reads a worker's certificate, which the handshake has verified. None when it is of something else.
#[must_use]
pub fn shown(certificate: &CertificateDer<'_>) -> Option<Shown> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut uris = parsed.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let names = uris.next()?;
    let [GeneralName::URI(uri)] = names.as_slice() else { return None };
    Some(Shown { worker: uri.strip_prefix(WORKER_URI)?.parse().ok()?, key: digest(parsed.public_key().raw) })
}

fn params(life: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let now = SystemTime::now();
    params.not_before = OffsetDateTime::from(now - SKEW);
    params.not_after = OffsetDateTime::from(now + life);
    let serial = secret::random::<16>().map_err(|_| rcgen::Error::RingUnspecified)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

/// The certificate of a new root, PEM.
fn make_root(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = params(ROOT_LIFE)?;
    // Roots of the same name are told apart by their key, so each has a name of its own.
    let name = secret::random::<8>().map_err(|_| rcgen::Error::RingUnspecified)?;
    params.distinguished_name.push(DnType::CommonName, format!("muster {}", secret::hex(&name)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.pem())
}

fn read_root(path: &Path) -> Result<CertificateDer<'static>, CaError> {
    let bytes = fs::read(path).map_err(|source| CaError::File { path: path.to_owned(), source })?;
    CertificateDer::from_pem_slice(&bytes)
        .map_err(|error| CaError::Unusable { path: path.to_owned(), reason: error.to_string() })
}

fn key_hash(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    tls::pin_of(certificate).map(|pin| pin.to_vec())
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn request() -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serialize_request(&key).expect("a request").der().to_vec()
    }

    #[test]
    fn a_certificate_holds_the_key_of_the_request_and_nothing_else_of_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let ca = Ca::open(dir.path()).expect("made");
        let csr = request();
        let key = ProvenKey::of_request(&csr).expect("its signature holds");
        let worker: WorkerId = "w1".parse().expect("a name");
        let (certificate, ends) = ca.worker(&worker, &key, Duration::from_secs(3600)).expect("signed");
        assert_eq!(shown(&certificate), Some(Shown { worker, key: key.hash() }));
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).expect("parsed");
        assert!(!parsed.is_ca());
        let usage = parsed.extended_key_usage().expect("readable").expect("there").value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert_eq!(parsed.validity().not_after.timestamp(), ends.seconds);
        assert!(!String::from_utf8_lossy(&certificate).contains("evil.example"));
        // A request that was changed on its way proves nothing.
        for at in [csr.len() - 1, csr.len() / 2] {
            let mut changed = csr.clone();
            changed[at] ^= 1;
            assert!(ProvenKey::of_request(&changed).is_err(), "byte {at}");
        }
        assert!(ProvenKey::of_request(b"nonsense").is_err());
        assert_eq!(shown(&ca.roots()[0]), None, "a root is no worker");
    }

    #[test]
    fn the_authority_is_kept_private_whole_and_the_same() {
        let dir = tempfile::tempdir().expect("a folder");
        let pin = Ca::open(dir.path()).expect("made").pin();
        assert_eq!(pin.len(), 64);
        assert_eq!(Ca::open(dir.path()).expect("read").pin(), pin);
        let key = dir.path().join("root.key");
        assert_eq!(fs::metadata(&key).expect("there").permissions().mode() & 0o777, 0o600);
        let other = tempfile::tempdir().expect("a folder");
        Ca::open(other.path()).expect("made");
        fs::create_dir(dir.path().join("trust")).expect("made");
        fs::copy(other.path().join("root.pem"), dir.path().join("trust/next.pem")).expect("copied");
        let both = Ca::open(dir.path()).expect("read");
        assert_eq!((both.pin(), both.roots().len()), (pin, 2));
        fs::copy(other.path().join("root.pem"), dir.path().join("root.pem")).expect("copied");
        let error = Ca::open(dir.path()).expect_err("not of its key").to_string();
        assert!(error.contains("is not of the key"), "{error}");
        fs::remove_file(&key).expect("removed");
        let error = Ca::open(dir.path()).expect_err("half of it").to_string();
        assert!(error.contains("root.key is missing"), "{error}");
    }
}
