//! TLS 1.3 between machines of a farm: an accept loop whose configuration may change while it runs, and
//! channels that trust the farm's own roots or, before they have those, the hash of a root's key.
//!
//! Owns no key and decides nothing: who a certificate makes somebody is the controller's business.

use std::{
    error::Error as StdError,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use hyper_util::rt::TokioIo;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Channel, server::Connected};

use crate::{grpc, task};

/// Longest handshake: a peer that dribbles holds a place no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at one time. Past it new connections wait in the kernel.
const HANDSHAKES: usize = 256;
/// How far the clock of a client may be wrong: a server's certificate counts this long before it begins and after it ends.
/// Servers change theirs days before that, so a machine with a bad clock stays in the farm and gains nobody anything.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(24 * 3600);
/// Wait after the system refused a connection: it is out of descriptors, and asking again at once is no help.
const REFUSED: Duration = Duration::from_millis(100);

/// The one crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Who is at the other end of a connection that came over TLS.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it calls from.
    pub addr: SocketAddr,
    /// What it showed, verified against the roots; none: it showed nothing.
    pub certificate: Option<CertificateDer<'static>>,
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Accepted {
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connections of `listener`, each with the configuration that holds when it comes. A handshake that fails
/// costs nobody else anything. Ends the loop when it is dropped.
pub fn accept(listener: TcpListener, config: Arc<ServerConfig>) -> impl Stream<Item = io::Result<Accepted>> {
    let (sender, receiver) = mpsc::channel(HANDSHAKES);
    let accepting = task::spawn("accept tls", async move {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        let acceptor = TlsAcceptor::from(config);
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let (stream, addr) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = %error, "a connection could not be taken");
                    sleep(REFUSED).await;
                    continue;
                }
            };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            task::spawn("tls handshake", async move {
                let _place = place;
                match timeout(HANDSHAKE, handshake(&acceptor, stream, addr)).await {
                    // A server that is gone takes nothing more.
                    Ok(Ok(accepted)) => drop(sender.send(Ok(accepted)).await),
                    Ok(Err(error)) => tracing::info!(peer = %addr, error = %error, "a handshake failed"),
                    Err(_) => tracing::info!(peer = %addr, "a handshake took too long"),
                }
            })
            .detach();
        }
    });
    stream::unfold((receiver, accepting), |(mut receiver, accepting)| async move {
        receiver.recv().await.map(|accepted| (accepted, (receiver, accepting)))
    })
}

async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream, addr: SocketAddr) -> io::Result<Accepted> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = shown.map(|certificate| certificate.clone().into_owned());
    Ok(Accepted { stream, peer: Peer { addr, certificate } })
}

/// Whom a client believes.
#[derive(Debug, Clone)]
pub enum Trust {
    /// These roots.
    Roots(Vec<CertificateDer<'static>>),
    /// The root whose key (SubjectPublicKeyInfo, DER) has this SHA-256, which the server sends along. For
    /// the first call, before one has the roots.
    Pin([u8; 32]),
}

/// What a client shows.
#[derive(Debug)]
pub struct Identity {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// An address or identity that no channel can be made of.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not `host:port`.
    #[error("{0:?} is not an address like farm.example:7420")]
    Address(String),
    /// The roots, the certificate or its key cannot be used.
    #[error("the certificates cannot be used: {0}")]
    Certificates(#[from] rustls::Error),
    /// As told.
    #[error(transparent)]
    Connect(#[from] grpc::ConnectError),
}

/// A channel to `address` (`host:port`) that connects at the first call and again whenever the connection is
/// lost.
///
/// # Errors
/// See [`TlsError`]; never because the peer is away.
pub fn connect(address: &str, trust: Trust, identity: Option<Identity>) -> Result<Channel, TlsError> {
    let no_address = || TlsError::Address(address.chars().take(256).collect());
    let (host, _port) = address.rsplit_once(':').ok_or_else(no_address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|_| no_address())?;
    let connector = TlsConnector::from(Arc::new(client_config(trust, identity)?));
    let target = address.to_owned();
    let dial = tower::service_fn(move |_uri: http::Uri| {
        let (connector, target, name) = (connector.clone(), target.clone(), name.clone());
        async move {
            let stream = TcpStream::connect(target).await?;
            stream.set_nodelay(true)?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Ok(grpc::endpoint(&format!("http://{address}"))?.connect_with_connector_lazy(dial))
}

fn client_config(trust: Trust, identity: Option<Identity>) -> Result<ClientConfig, rustls::Error> {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match trust {
        Trust::Roots(roots) => {
            let verifier = Arc::new(Rooted(web_pki(roots)?));
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
        Trust::Pin(pin) => builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned { pin })),
    };
    let mut config = match identity {
        Some(Identity { certificate, key }) => builder.with_client_auth_cert(vec![certificate], key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Roots to verify against.
///
/// # Errors
/// When one is no certificate.
pub fn store(
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<RootCertStore, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root)?;
    }
    Ok(store)
}

/// SHA-256 of the key of a certificate, as [`Trust::Pin`] wants it.
#[must_use]
pub fn pin_of(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    ring::digest::digest(&ring::digest::SHA256, parsed.public_key().raw).as_ref().try_into().ok()
}

fn web_pki(
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(store(roots)?), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

/// Verifies with [`CLOCK_TOLERANCE`].
fn verify(
    verifier: &WebPkiServerVerifier,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let at = |now| verifier.verify_server_cert(end_entity, intermediates, server_name, &[], now);
    let now = Duration::from_secs(now.as_secs());
    let verified = at(UnixTime::since_unix_epoch(now));
    let other = match &verified {
        Err(rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. })) => {
            now.saturating_sub(CLOCK_TOLERANCE)
        }
        Err(rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. })) => {
            now.saturating_add(CLOCK_TOLERANCE)
        }
        _ => return verified,
    };
    at(UnixTime::since_unix_epoch(other)).or(verified)
}

/// The part of a verifier that is the same for all.
macro_rules! only_tls13 {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Believes the farm's roots.
#[derive(Debug)]
struct Rooted(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Rooted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify(&self.0, end_entity, intermediates, server_name, now)
    }

    only_tls13!();
}

/// Believes the root with the right key among those the server sends, and nothing else.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates.iter().find(|sent| pin_of(sent) == Some(self.pin));
        let root = root.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verify(&*web_pki([root.clone().into_owned()])?, end_entity, &[], server_name, now)
    }

    only_tls13!();
}

/// Why a peer and a client do not come together over TLS, when that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The server is not of the farm whose roots or whose pin the client has.
    OtherFarm,
    /// The server's certificate does not hold the name or address it was called by.
    OtherName,
    /// The server's certificate is not valid at this machine's time: one of the clocks is wrong by more than a day.
    Clock,
    /// The server does not take the client's certificate any more: it has ended, or its root is not believed.
    Certificate,
}

/// What TLS said, in whatever an error of a call was caused by.
#[must_use]
pub fn trouble(error: &(dyn StdError + 'static)) -> Option<Trouble> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error tells of the causes of what it holds, not of that itself.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = held.and_then(|held| held.downcast_ref::<rustls::Error>());
        if let Some(found) = found.or_else(|| error.downcast_ref::<rustls::Error>()) {
            return trouble_of(found);
        }
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}

fn trouble_of(error: &rustls::Error) -> Option<Trouble> {
    use CertificateError as Bad;
    Some(match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                Trouble::Clock
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Trouble::OtherName,
            _ => Trouble::OtherFarm,
        },
        rustls::Error::AlertReceived(
            AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => Trouble::Certificate,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_or_no_root_is_named() {
        let error = connect("nonsense", Trust::Pin([0; 32]), None).expect_err("no port").to_string();
        assert!(error.contains("\"nonsense\" is not an address"), "{error}");
        let roots = Trust::Roots(vec![CertificateDer::from(b"no certificate".to_vec())]);
        let error = connect("127.0.0.1:1", roots, None).expect_err("no root").to_string();
        assert!(error.contains("certificates cannot be used"), "{error}");
    }
}
