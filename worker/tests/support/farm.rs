//! A farm's own authority in front of the test controller: TLS, join tokens, certificates that can be made to end or to be
//! refused.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        identity_service_server::{IdentityService, IdentityServiceServer},
        worker_service_server::WorkerServiceServer,
        *,
    },
};
use muster_runtime::{
    task,
    tls::{self, Peer},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, PublicKeyData as _, SanType,
};
use rustls::{ServerConfig, pki_types::PrivateKeyDer, server::WebPkiClientVerifier};
use tonic::{Request, Response, Status};

use crate::support::Controller;

/// What is dated back, as the real controller does.
const SKEW: Duration = Duration::from_secs(300);

#[derive(Clone)]
pub struct Farm {
    pub addr: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    root: CertifiedIssuer<'static, KeyPair>,
    state: Mutex<State>,
}

pub struct State {
    /// Of the next certificates.
    pub life: Duration,
    /// Answers to Enrol and Renew that are lost after the certificate was made.
    pub lose_answers: u32,
    /// Keys that may call, newest last; the real one keeps two.
    pub keys: Vec<Vec<u8>>,
    /// Every key a certificate was made for.
    pub seen: BTreeSet<Vec<u8>>,
    pub renewals: u32,
    pub revoked: bool,
    /// What it is told to call itself.
    pub more_roots: Vec<Vec<u8>>,
}

pub fn make_root(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

/// A controller's certificate with these dates, for 127.0.0.1.
fn server_config(
    root: &CertifiedIssuer<'static, KeyPair>,
    from: SystemTime,
    until: SystemTime,
) -> Arc<ServerConfig> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().expect("an address"))];
    (params.not_before, params.not_after) = (from.into(), until.into());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, root).expect("signed");
    let root = root.der().clone();
    let roots = Arc::new(tls::store([root.clone()]).expect("a root"));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, tls::provider())
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone(), root], key)
        .expect("a server");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

impl Farm {
    pub async fn start(controller: &Controller) -> Self {
        let now = SystemTime::now();
        Self::start_dated(controller, now - SKEW, now + Duration::from_secs(3600)).await
    }

    /// With a server certificate of these dates.
    pub async fn start_dated(controller: &Controller, from: SystemTime, until: SystemTime) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("bound");
        let root = make_root("test farm");
        let config = server_config(&root, from, until);
        let state = State {
            life: Duration::from_secs(3600),
            lose_answers: 0,
            keys: Vec::new(),
            seen: BTreeSet::new(),
            renewals: 0,
            revoked: false,
            more_roots: Vec::new(),
        };
        let farm = Self { addr, inner: Arc::new(Inner { root, state: Mutex::new(state) }) };
        let gate = farm.clone();
        let worker = WorkerServiceServer::with_interceptor(controller.clone(), move |request: Request<()>| {
            gate.known(request.extensions().get::<Peer>())?;
            Ok(request)
        });
        let server = tonic::transport::Server::builder()
            .add_service(IdentityServiceServer::new(farm.clone()))
            .add_service(worker)
            .serve_with_incoming(tls::accept(listener, config));
        task::spawn("test farm", server).detach();
        farm
    }

    pub fn token(&self) -> String {
        let pin = tls::pin_of(self.inner.root.der()).expect("a pin");
        let hex: String = pin.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("mustjoin_t1_s3cr3tofthetoken.{hex}@{}", self.addr)
    }

    pub fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.inner.state.lock().expect("no test panicked"))
    }

    fn known(&self, peer: Option<&Peer>) -> Result<Vec<u8>, Status> {
        let refused = || Status::from(Error::new(ErrorCode::Unauthenticated, "not known, or no longer good"));
        let shown =
            peer.and_then(|peer| peer.certificate.as_ref()).and_then(tls::pin_of).ok_or_else(refused)?;
        let known = self.state(|state| !state.revoked && state.keys.contains(&shown.to_vec()));
        if known { Ok(shown.to_vec()) } else { Err(refused()) }
    }

    fn certificate(&self, csr: &[u8]) -> Result<Vec<u8>, Status> {
        let request = CertificateSigningRequestParams::from_der(&csr.into()).expect("a request");
        let mut params = CertificateParams::default();
        let uri = "spiffe://muster/worker/w1".try_into().expect("ASCII");
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (now, life) = (SystemTime::now(), self.state(|state| state.life));
        (params.not_before, params.not_after) = ((now - SKEW).into(), (now + life).into());
        let signed = params.signed_by(&request.public_key, &self.inner.root).expect("signed");
        let spki = request.public_key.subject_public_key_info();
        let key = ring::digest::digest(&ring::digest::SHA256, &spki).as_ref().to_vec();
        self.state(|state| {
            state.seen.insert(key.clone());
            state.keys.retain(|known| *known != key);
            state.keys.push(key);
            let surplus = state.keys.len().saturating_sub(2);
            state.keys.drain(..surplus);
            if state.lose_answers > 0 {
                state.lose_answers -= 1;
                return Err(Status::unavailable("the answer is lost"));
            }
            Ok(signed.der().to_vec())
        })
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        let more = self.state(|state| state.more_roots.clone());
        std::iter::once(self.inner.root.der().to_vec()).chain(more).collect()
    }
}

#[tonic::async_trait]
impl IdentityService for Farm {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let request = request.into_inner();
        match request.token.as_str() {
            "mustjoin_t1_s3cr3tofthetoken" if request.worker != "taken" => {}
            "mustjoin_t1_s3cr3tofthetoken" => {
                return Err(Error::invalid("worker", "is taken, and a worker of this name has joined").into());
            }
            _ => return Err(Error::new(ErrorCode::Unauthenticated, "not known").into()),
        }
        let certificate = self.certificate(&request.csr)?;
        self.state(|state| state.revoked = false);
        let roots = self.roots();
        Ok(Response::new(EnrolResponse { certificate, roots, expires_at: None, worker: request.worker }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        self.known(request.extensions().get::<Peer>())?;
        let certificate = self.certificate(&request.into_inner().csr)?;
        self.state(|state| state.renewals += 1);
        Ok(Response::new(RenewResponse { certificate, roots: self.roots(), expires_at: None }))
    }

    async fn who_am_i(&self, _: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn check_access(
        &self,
        _: Request<CheckAccessRequest>,
    ) -> Result<Response<CheckAccessResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn create_join_token(
        &self,
        _: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn list_join_tokens(
        &self,
        _: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn revoke_join_token(
        &self,
        _: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn revoke_worker(
        &self,
        _: Request<RevokeWorkerRequest>,
    ) -> Result<Response<RevokeWorkerResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn create_access(
        &self,
        _: Request<CreateAccessRequest>,
    ) -> Result<Response<CreateAccessResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn list_access(
        &self,
        _: Request<ListAccessRequest>,
    ) -> Result<Response<ListAccessResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn revoke_access(
        &self,
        _: Request<RevokeAccessRequest>,
    ) -> Result<Response<RevokeAccessResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}
