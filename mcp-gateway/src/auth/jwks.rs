//! The public keys of an authorization server, from a file or from this machine.
//!
//! Read when they are first needed, when a token names a key that is not among them, and every five minutes.
//! Invariant: however many tokens come, the keys are read at most every few seconds, and keys that cannot be read
//! leave those that were.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use muster_proto::error::{Error, ErrorCode};
use muster_runtime::task;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use tokio::{net::TcpStream, time::Instant, time::timeout};

use super::Refused;
use crate::config::Keys;

/// Keys taken away are believed no longer than this.
const FRESH_FOR: Duration = Duration::from_secs(300);
/// Shortest time between two readings.
const PAUSE: Duration = Duration::from_secs(5);
/// Largest set.
const SET_BYTES: usize = 1 << 20;
/// Most keys looked at.
const KEYS: usize = 100;
const FETCH: Duration = Duration::from_secs(5);

/// A public key, ready to check with.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// Whether `signature` is that of this key over `signed`, and `algorithm` the one this key is for.
    pub(super) fn verifies(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        match (&self.kind, algorithm) {
            (Kind::Rsa { n, e }, "RS256") => RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, signature)
                .is_ok(),
            (Kind::P256(point), "ES256") => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(signed, signature)
                    .is_ok()
            }
            (Kind::Ed25519(key), "EdDSA" | "Ed25519") => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(signed, signature).is_ok()
            }
            _ => false,
        }
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    /// `None`: a kind that is not for signing, or not known here.
    fn key(self) -> Option<Key> {
        let bytes = |text: Option<String>| BASE64.decode(text?.trim_end_matches('=')).ok();
        if self.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        let kind = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Kind::Rsa { n: bytes(self.n)?, e: bytes(self.e)? },
            ("EC", Some("P-256")) => {
                // An uncompressed point.
                Kind::P256([&[4_u8][..], &bytes(self.x)?, &bytes(self.y)?].concat())
            }
            ("OKP", Some("Ed25519")) => Kind::Ed25519(bytes(self.x)?),
            _ => return None,
        };
        Some(Key { id: self.kid, kind })
    }
}

#[derive(Debug, Default)]
struct Read {
    keys: Vec<Arc<Key>>,
    /// When they were read.
    at: Option<Instant>,
    /// When that was tried last.
    tried: Option<Instant>,
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct KeySet {
    from: Keys,
    read: Mutex<Read>,
    /// One reads, the others wait for it.
    reading: tokio::sync::Mutex<()>,
}

impl KeySet {
    pub(super) fn new(from: Keys) -> Self {
        Self { from, read: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// The key of this name; a token that names none means the only one there is.
    pub(super) async fn find(&self, id: Option<&str>) -> Result<Arc<Key>, Refused> {
        if let Some(key) = self.known(id) {
            return Ok(key);
        }
        let _turn = self.reading.lock().await;
        if let Some(key) = self.known(id) {
            return Ok(key);
        }
        if self.may_read() {
            match self.fetch().await {
                Ok(keys) => self.take(keys),
                Err(reason) => {
                    tracing::warn!(reason, "the keys of the issuer cannot be read");
                    if !self.lock().keys.is_empty() {
                        return self.any(id).ok_or_else(unknown);
                    }
                    let message = "the keys of the issuer cannot be read";
                    return Err(Refused::Unknown(Error::new(ErrorCode::ControllerUnavailable, message)));
                }
            }
        }
        self.any(id).ok_or_else(unknown)
    }

    /// Among keys that are fresh.
    fn known(&self, id: Option<&str>) -> Option<Arc<Key>> {
        self.lock().at.filter(|at| at.elapsed() < FRESH_FOR)?;
        self.any(id)
    }

    fn any(&self, id: Option<&str>) -> Option<Arc<Key>> {
        let read = self.lock();
        match (id, read.keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)).cloned(),
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        }
    }

    fn may_read(&self) -> bool {
        let mut read = self.lock();
        let may = read.tried.is_none_or(|tried| tried.elapsed() >= PAUSE);
        if may {
            read.tried = Some(Instant::now());
        }
        may
    }

    fn take(&self, keys: Vec<Arc<Key>>) {
        let mut read = self.lock();
        read.keys = keys;
        read.at = Some(Instant::now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self) -> Result<Vec<Arc<Key>>, String> {
        let bytes = match &self.from {
            Keys::File(path) => {
                tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display()))?
            }
            Keys::Url(url) => timeout(FETCH, get(url)).await.map_err(|_| format!("{url} is silent"))??,
        };
        let set: Set =
            serde_json::from_slice(&bytes).map_err(|error| format!("no JSON Web Key Set: {error}"))?;
        let keys: Vec<_> = set.keys.into_iter().take(KEYS).filter_map(Jwk::key).map(Arc::new).collect();
        if keys.is_empty() { Err("no key of a known kind is among them".to_owned()) } else { Ok(keys) }
    }
}

fn unknown() -> Refused {
    Refused::Token("the token is signed by a key its issuer does not have".to_owned())
}

/// Only from this machine: it is not encrypted.
async fn get(url: &str) -> Result<Vec<u8>, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let failed = |error: &dyn std::fmt::Display| format!("{url}: {error}");
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| failed(&error))?;
    let loopback = stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback());
    if uri.scheme_str() != Some("http") || !loopback {
        return Err(format!("{url}: keys are taken from a file or from http:// on this machine"));
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let _connection = task::spawn("fetch keys", async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %error, "the connection for keys ended badly");
        }
    });
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = http::Request::get(path)
        .header(http::header::HOST, uri.authority().map_or("localhost", http::uri::Authority::as_str))
        .header(http::header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    if !response.status().is_success() {
        return Err(failed(&response.status()));
    }
    let body =
        Limited::new(response.into_body(), SET_BYTES).collect().await.map_err(|error| failed(&error))?;
    Ok(body.to_bytes().to_vec())
}
