//! TLS on both sides: clients before the gateway, a controller elsewhere behind it.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use muster_mcp_gateway::{Auth, Config, HttpConfig, HttpGateway, Secret, StartError, TlsFiles, Trust};
use muster_runtime::{
    shutdown::Shutdown,
    task::{self, Task},
    tls,
};
use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    fake_controller::Running,
    farm::{Farm, config},
    site::{LONG, MODERN, modern_call, status},
};

struct Made {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

/// A certificate that vouches for itself.
fn made(names: &[&str]) -> Made {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    Made {
        certificate: made.cert.der().clone(),
        key: PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()),
    }
}

fn pem(kind: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

fn write(folder: &Path, made: &Made) -> TlsFiles {
    let files = TlsFiles { certificate: folder.join("gateway.crt"), key: folder.join("gateway.key") };
    fs::write(&files.certificate, pem("CERTIFICATE", &made.certificate)).expect("written");
    fs::write(&files.key, pem("PRIVATE KEY", made.key.secret_pkcs8_der())).expect("written");
    files
}

fn connector(root: &CertificateDer<'static>) -> TlsConnector {
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(tls::store([root.clone()]).expect("a root"))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Asks over TLS; gives the whole answer.
async fn ask(
    to: SocketAddr,
    name: &str,
    root: &CertificateDer<'static>,
    headers: &str,
    body: &str,
) -> String {
    let stream = TcpStream::connect(to).await.expect("connected");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut stream =
        timeout(LONG, connector(root).connect(name, stream)).await.expect("in time").expect("TLS");
    let request = format!(
        "POST /mcp HTTP/1.1\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         accept: application/json, text/event-stream\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // Some servers close without saying so in TLS.
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn https_is_served_under_its_public_name_and_no_other() {
    let folder = TempDir::new().expect("a folder");
    let certificate = made(&["farm.example"]);
    let controller = Running::start().await;
    controller.fake.give_token("ada-token", "ada", &[]);
    let mut config = config(&controller.uri());
    config.http = HttpConfig {
        tls: Some(write(folder.path(), &certificate)),
        auth: Some(Auth::default()),
        public_url: Some("https://farm.example/mcp".into()),
        origins: vec!["https://tools.example".into()],
        ..HttpConfig::default()
    };
    // All interfaces: with all that is needed for it.
    let listen = "0.0.0.0:0".parse().expect("an address");
    let gateway = HttpGateway::start(config, listen, Shutdown::new()).await.expect("it starts");
    let to = SocketAddr::from(([127, 0, 0, 1], gateway.local_addr().port()));
    let body = modern_call("list_sessions", &json!({})).to_string();
    let call =
        format!("mcp-protocol-version: {MODERN}\r\nmcp-method: tools/call\r\nmcp-name: list_sessions\r\n");
    let token = "authorization: Bearer ada-token\r\n";
    for (headers, expected) in [
        (format!("host: farm.example\r\n{token}"), 200),
        (format!("host: farm.example:7421\r\n{token}"), 200),
        (format!("host: farm.example\r\n{token}origin: https://farm.example\r\n"), 200),
        (format!("host: farm.example\r\n{token}origin: https://tools.example\r\n"), 200),
        (format!("host: farm.example\r\n{token}origin: https://evil.example\r\n"), 403),
        (format!("host: farm.example\r\n{token}origin: http://farm.example\r\n"), 403),
        (format!("host: evil.example\r\n{token}"), 403),
        ("host: farm.example\r\n".to_owned(), 401),
    ] {
        let answer =
            ask(to, "farm.example", &certificate.certificate, &format!("{headers}{call}"), &body).await;
        assert_eq!(status(&answer), expected, "{headers}: {answer}");
        if expected == 401 {
            let document = "https://farm.example/.well-known/oauth-protected-resource/mcp";
            assert!(answer.contains(document), "{answer}");
        }
    }
    // Who speaks no TLS, or says nothing, costs nobody else anything.
    let mut plain = TcpStream::connect(to).await.expect("connected");
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
    let _silent = TcpStream::connect(to).await.expect("connected");
    let mut answer = Vec::new();
    let _ = timeout(LONG, plain.read_to_end(&mut answer)).await.expect("in time");
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    let answer = ask(
        to,
        "farm.example",
        &certificate.certificate,
        &format!("host: farm.example\r\n{token}{call}"),
        &body,
    )
    .await;
    assert_eq!(status(&answer), 200);
}

#[tokio::test]
async fn an_address_others_reach_needs_tls_and_authentication_and_says_which_is_missing() {
    let folder = TempDir::new().expect("a folder");
    let files = write(folder.path(), &made(&["farm.example"]));
    let start = |http: HttpConfig, listen: &str| {
        let mut config = config("http://127.0.0.1:1");
        config.http = http;
        HttpGateway::start(config, listen.parse().expect("an address"), Shutdown::new())
    };
    let (tls, auth) = (Some(files.clone()), Some(Auth::default()));
    let none = HttpConfig::default();
    for (http, missing) in [
        (none.clone(), "TLS (a certificate and its key) and authentication"),
        (HttpConfig { auth: auth.clone(), ..none.clone() }, "TLS (a certificate and its key);"),
        (HttpConfig { tls: tls.clone(), ..none.clone() }, "needs authentication;"),
        (HttpConfig { tls, auth, ..none.clone() }, "public URL"),
    ] {
        for listen in ["0.0.0.0:0", "[::]:0"] {
            let error = start(http.clone(), listen).await.expect_err("refused");
            assert!(matches!(error, StartError::Exposed { .. }), "{error}");
            assert!(error.to_string().contains(missing), "{error}");
        }
    }
    let wrong = HttpConfig { public_url: Some("farm.example".into()), ..none.clone() };
    let error = start(wrong, "127.0.0.1:0").await.expect_err("refused").to_string();
    assert!(error.contains("\"farm.example\" is no address"), "{error}");

    let other = made(&["other.example"]);
    fs::write(&files.key, pem("PRIVATE KEY", other.key.secret_pkcs8_der())).expect("written");
    let mismatch = HttpConfig { tls: Some(files.clone()), ..none.clone() };
    let error = start(mismatch, "127.0.0.1:0").await.expect_err("refused").to_string();
    assert!(error.contains("gateway.key: it is no key for the certificate"), "{error}");
    fs::remove_file(&files.certificate).expect("removed");
    let gone = HttpConfig { tls: Some(files), ..none };
    let error = start(gone, "127.0.0.1:0").await.expect_err("refused").to_string();
    assert!(error.contains("gateway.crt: "), "{error}");
}

/// The fake controller behind TLS: bytes in, bytes out.
async fn behind_tls(controller: SocketAddr, made: &Made) -> (SocketAddr, Task<()>) {
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![made.certificate.clone()], PrivateKeyDer::from(made.key.clone_key()))
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let serving = task::spawn("tls proxy", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            task::spawn("tls connection", async move {
                // A client that believes another root hangs up here.
                let Ok(mut near) = acceptor.accept(stream).await else { return };
                let mut far = TcpStream::connect(controller).await.expect("connected");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            })
            .detach();
        }
    });
    (addr, serving)
}

#[tokio::test]
async fn a_controller_elsewhere_is_reached_over_tls_with_the_gateways_own_token() {
    let controller = Running::start().await;
    let certificate = made(&["localhost"]);
    let (addr, _proxy) = behind_tls(controller.addr, &certificate).await;
    let mut right = config(&format!("https://localhost:{}", addr.port()));
    right.trust = Some(Trust::Roots(vec![certificate.certificate.clone()]));
    right.token = Some(Secret::new("must_gateway\n"));
    let mut wrong: Config = right.clone();
    wrong.trust = Some(Trust::Roots(vec![made(&["localhost"]).certificate]));

    let farm = Farm::with(controller, right).await;
    let listed = farm.ok("list_sessions", json!({})).await;
    assert_eq!(listed["total"], 0, "{listed}");
    assert_eq!(farm.fake().state().authorizations, ["Bearer must_gateway"]);

    let stranger = Farm::with(Running::start().await, wrong).await;
    let error = stranger.error("list_sessions", json!({})).await;
    assert!(error.starts_with("controller_unavailable: "), "{error}");
}
