//! The certificate HTTP is served with: read from files, and again when they change.
//!
//! Invariant: files that cannot be read, or do not belong together, leave the certificate that was; at start they are
//! an error.

use std::{
    fmt, fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use muster_runtime::tls;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::config::TlsFiles;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct CertificateError {
    file: String,
    problem: String,
}

/// What TLS connections are served with.
pub(crate) fn server_config(files: TlsFiles) -> Result<Arc<ServerConfig>, CertificateError> {
    let name = files.certificate.display().to_string();
    let certificate = Certificate::read(files)?;
    let builder = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| CertificateError { file: name, problem: error.to_string() })?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

struct Certificate {
    files: TlsFiles,
    current: Mutex<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Certificate {
    fn read(files: TlsFiles) -> Result<Self, CertificateError> {
        let changed = changed(&files);
        let key = load(&files)?;
        let current = Current { key, changed, looked: Instant::now() };
        Ok(Self { files, current: Mutex::new(current) })
    }

    fn key(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            let changed = changed(&self.files);
            if changed.is_some() && changed != current.changed {
                match load(&self.files) {
                    Ok(key) => {
                        tracing::info!(file = %self.files.certificate.display(), "a new certificate is served");
                        current.key = key;
                        current.changed = changed;
                    }
                    // Perhaps only one of the two is written yet.
                    Err(error) => tracing::warn!(error = %error, "the certificate that was is served on"),
                }
            }
        }
        current.key.clone()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

/// When either was changed last.
fn changed(files: &TlsFiles) -> Option<SystemTime> {
    let of = |path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    of(&files.certificate).max(of(&files.key))
}

fn load(files: &TlsFiles) -> Result<Arc<CertifiedKey>, CertificateError> {
    let failed = |path: &std::path::Path, problem: &dyn fmt::Display| CertificateError {
        file: path.display().to_string(),
        problem: problem.to_string(),
    };
    let certificate = files.certificate.as_path();
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(certificate, &error))?;
    if chain.is_empty() {
        return Err(failed(certificate, &"there is no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| failed(&files.key, &error))?;
    CertifiedKey::from_der(chain, key, &tls::provider())
        .map(Arc::new)
        .map_err(|error| failed(&files.key, &format_args!("it is no key for the certificate: {error}")))
}
