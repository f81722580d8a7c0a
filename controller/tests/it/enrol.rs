//! Machines that join over TLS, and what becomes of them.

use std::time::Duration;

use muster_controller::{Remote, identity::ca::Ca};
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{
        identity_service_client::IdentityServiceClient, session_service_client::SessionServiceClient,
        worker_service_client::WorkerServiceClient, *,
    },
};
use muster_runtime::tls::{self, Trust};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::timeout;
use tonic::{Request, transport::Channel};

use crate::{
    farm::{Farm, PATIENCE, answer, refused},
    worker::{FakeWorker, hello},
};

async fn farm(change: impl FnOnce(&mut Remote)) -> Farm {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut remote = Remote::new("127.0.0.1:0".parse().expect("an address"), names);
    change(&mut remote);
    Farm::start_with(|config| config.remote = Some(remote)).await
}

fn address(farm: &Farm) -> String {
    farm.controller.as_ref().and_then(|c| c.remote_addr()).expect("it has one").to_string()
}

fn local(farm: &Farm) -> IdentityServiceClient<Channel> {
    IdentityServiceClient::new(farm.channel())
}

/// A machine with a key of its own.
struct Machine {
    key: KeyPair,
    certificate: CertificateDer<'static>,
    roots: Vec<CertificateDer<'static>>,
}

fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).expect("a request").der().to_vec()
}

/// The part of a join token that is sent, and the channel its other part makes.
fn unpacked(token: &str) -> (String, Channel) {
    let (secret, rest) = token.split_once('.').expect("a pin");
    let (pin, address) = rest.split_once('@').expect("an address");
    let bytes: Vec<u8> = (0..pin.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&pin[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    let pin = bytes.try_into().expect("32 bytes");
    (secret.to_owned(), tls::connect(address, Trust::Pin(pin), None).expect("a channel"))
}

async fn enrol(token: &str, key: &KeyPair, worker: &str) -> Result<EnrolResponse, Error> {
    let (token, channel) = unpacked(token);
    let request = EnrolRequest { token, csr: request(key), worker: worker.to_owned() };
    answer(IdentityServiceClient::new(channel).enrol(request).await)
}

fn ders(ders: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    ders.into_iter().map(CertificateDer::from).collect()
}

impl Machine {
    async fn join(token: &str, worker: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let enrolled = enrol(token, &key, worker).await.expect("enrolled");
        assert_eq!(enrolled.worker, worker);
        Self { key, certificate: enrolled.certificate.into(), roots: ders(enrolled.roots) }
    }

    /// A connection of its own.
    fn channel(&self, farm: &Farm) -> Channel {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        let identity = tls::Identity { certificate: self.certificate.clone(), key };
        tls::connect(&address(farm), Trust::Roots(self.roots.clone()), Some(identity)).expect("a channel")
    }

    async fn who(&self, farm: &Farm) -> Result<WhoAmIResponse, Error> {
        answer(IdentityServiceClient::new(self.channel(farm)).who_am_i(WhoAmIRequest {}).await)
    }

    async fn renew(&self, farm: &Farm) -> Self {
        let key = KeyPair::generate().expect("a key");
        let renew = RenewRequest { csr: request(&key) };
        let renewed = IdentityServiceClient::new(self.channel(farm)).renew(renew).await;
        let renewed = answer(renewed).expect("renewed");
        Self { key, certificate: renewed.certificate.into(), roots: ders(renewed.roots) }
    }
}

async fn token(farm: &Farm, request: CreateJoinTokenRequest) -> (String, JoinToken) {
    let made = answer(local(farm).create_join_token(request).await).expect("made");
    (made.token, made.info.expect("what it is"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_that_join_with_one_token_at_the_same_moment_all_join() {
    let farm = farm(|_| {}).await;
    let ask = CreateJoinTokenRequest { uses: 8, ..CreateJoinTokenRequest::default() };
    let token = local(&farm).create_join_token(ask).await.expect("made").into_inner().token;
    let keys: Vec<KeyPair> = (0..8).map(|_| KeyPair::generate().expect("a key")).collect();
    let names: Vec<String> = (0..8).map(|number| format!("m{number}")).collect();
    let joining = keys.iter().zip(&names).map(|(key, name)| enrol(&token, key, name));
    for (enrolled, name) in futures::future::join_all(joining).await.into_iter().zip(&names) {
        assert_eq!(&enrolled.expect("enrolled").worker, name);
    }
    let ninth = enrol(&token, &KeyPair::generate().expect("a key"), "m9").await;
    assert_eq!(ninth.expect_err("used up").code, ErrorCode::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_with_a_token_works_over_tls_renews_and_is_nobody_once_revoked() {
    let farm = farm(|_| {}).await;
    let labels = [("zone".to_owned(), "a".to_owned())].into();
    let (join, _) = token(&farm, CreateJoinTokenRequest { labels, ..Default::default() }).await;
    let machine = Machine::join(&join, "w1").await;
    let who = machine.who(&farm).await.expect("known");
    assert_eq!((who.name.as_str(), who.role()), ("w1", Role::Worker));

    // It is the worker it says, has the labels it was given, and may do what workers do and nothing else.
    let client = || WorkerServiceClient::new(machine.channel(&farm));
    let error = FakeWorker::connect_over(client(), hello("w2", 1)).await.map(drop).expect_err("not w2");
    assert_eq!(Error::from_status(&error).code, ErrorCode::PermissionDenied);
    let liar = Hello { labels: [("zone".to_owned(), "b".to_owned())].into(), ..hello("w1", 1) };
    let mut worker = FakeWorker::connect_over(client(), liar).await.expect("linked");
    let workers = answer(farm.admin().list_workers(ListWorkersRequest {}).await).expect("listed").workers;
    assert_eq!(workers[0].labels["zone"], "a");
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let get = GetSessionRequest { session: id.clone() };
    let mut sessions = SessionServiceClient::new(machine.channel(&farm));
    refused(answer(sessions.get_session(get.clone()).await), ErrorCode::PermissionDenied);

    // Whoever shows nothing is nobody; an access token counts here too.
    let open =
        || tls::connect(&address(&farm), Trust::Roots(machine.roots.clone()), None).expect("a channel");
    let nobody = SessionServiceClient::new(open()).get_session(get.clone()).await;
    refused(answer(nobody), ErrorCode::Unauthenticated);
    let access = CreateAccessRequest { name: "ann".into(), role: Role::Viewer.into(), ..Default::default() };
    let access = answer(local(&farm).create_access(access).await).expect("made").token;
    let mut signed = Request::new(get);
    signed.metadata_mut().insert("authorization", format!("Bearer {access}").parse().expect("ASCII"));
    answer(SessionServiceClient::new(open()).get_session(signed).await).expect("ann may");

    // A new key: both count until the renewal after.
    let renewed = machine.renew(&farm).await;
    for shown in [&machine, &renewed] {
        assert_eq!(shown.who(&farm).await.expect("known").name, "w1");
    }
    let again = renewed.renew(&farm).await;
    assert_eq!(machine.who(&farm).await.expect_err("its key is old").code, ErrorCode::Unauthenticated);

    let revoke = RevokeWorkerRequest { worker: "w1".into() };
    answer(local(&farm).revoke_worker(revoke).await).expect("revoked");
    assert_eq!(worker.ended().await.code(), tonic::Code::Unauthenticated, "its link is cut");
    assert_eq!(again.who(&farm).await.expect_err("revoked").code, ErrorCode::Unauthenticated);
    // It may come back, with a token for its name.
    let (named, _) = token(&farm, CreateJoinTokenRequest { worker: "w1".into(), ..Default::default() }).await;
    assert_eq!(Machine::join(&named, "w1").await.who(&farm).await.expect("known").name, "w1");
    let unknown = RevokeWorkerRequest { worker: "w9".into() };
    refused(answer(local(&farm).revoke_worker(unknown).await), ErrorCode::WorkerNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_once_the_same_key_may_ask_again_and_names_are_not_taken_over() {
    let mut farm = farm(|_| {}).await;
    let (join, info) = token(&farm, CreateJoinTokenRequest::default()).await;
    let key = KeyPair::generate().expect("a key");
    let first = enrol(&join, &key, "w1").await.expect("enrolled");
    // The answer was lost, and the controller started again meanwhile.
    farm.restart().await;
    let join = format!("{}@{}", join.split_once('@').expect("an address").0, address(&farm));
    let again = enrol(&join, &key, "another name").await.expect("the same machine");
    assert_eq!((again.worker.as_str(), &again.roots), ("w1", &first.roots));
    let other = KeyPair::generate().expect("a key");
    let used_up = enrol(&join, &other, "w2").await.expect_err("used up");
    let (two, _) = token(&farm, CreateJoinTokenRequest { uses: 2, ..Default::default() }).await;
    let wrong = enrol(&two.replacen(".", "0.", 1), &other, "w2").await.expect_err("another secret");
    assert_eq!((used_up.code, &used_up), (ErrorCode::Unauthenticated, &wrong), "nothing tells them apart");
    let taken = enrol(&two, &other, "w1").await.expect_err("taken");
    assert_eq!((taken.code, taken.field.as_str()), (ErrorCode::InvalidArgument, "worker"));
    enrol(&two, &other, "w2").await.expect("free");
    let nonsense = enrol(&two, &other, "No Name").await.map(drop);
    nonsense.expect("the same key is the same machine, whatever it wants to be called");

    let (revoked, info_revoked) = token(&farm, CreateJoinTokenRequest::default()).await;
    answer(local(&farm).revoke_join_token(RevokeJoinTokenRequest { id: info_revoked.id.clone() }).await)
        .expect("revoked");
    refused(enrol(&revoked, &KeyPair::generate().expect("a key"), "w3").await, ErrorCode::Unauthenticated);
    let listed =
        answer(local(&farm).list_join_tokens(ListJoinTokensRequest {}).await).expect("listed").tokens;
    let of = |id: &str| listed.iter().find(|token| token.id == id).expect("listed").clone();
    assert_eq!((of(&info.id).used, of(&info_revoked.id).revoked), (1, true));
    for (request, field) in [
        (CreateJoinTokenRequest { ttl_seconds: u32::MAX, ..Default::default() }, "ttlSeconds"),
        (CreateJoinTokenRequest { worker: "w1".into(), uses: 2, ..Default::default() }, "uses"),
    ] {
        let error =
            refused(answer(local(&farm).create_join_token(request).await), ErrorCode::InvalidArgument);
        assert_eq!(error.field, field);
    }

    // Who pins another farm's key talks to nobody here.
    let other_farm = tempfile::tempdir().expect("a folder");
    let pin = Ca::open(other_farm.path()).expect("made").pin();
    let (secret, rest) = two.split_once('.').expect("a pin");
    let elsewhere = format!("{secret}.{pin}@{}", rest.split_once('@').expect("an address").1);
    refused(enrol(&elsewhere, &other, "w2").await, ErrorCode::ControllerUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_are_changed_without_anybody_joining_again() {
    let mut farm = farm(|_| {}).await;
    let (join, _) = token(&farm, CreateJoinTokenRequest::default()).await;
    let machine = Machine::join(&join, "w1").await;
    assert_eq!(machine.roots.len(), 1);
    let ca = farm.dir.path().join("state/ca");
    let next = farm.dir.path().join("next");
    Ca::open(&next).expect("made");
    std::fs::create_dir(ca.join("trust")).expect("made");
    std::fs::copy(next.join("root.pem"), ca.join("trust/next.pem")).expect("copied");
    farm.restart().await;
    let machine = machine.renew(&farm).await;
    assert_eq!(machine.roots.len(), 2, "it hears of the new one");
    farm.leave().await;
    std::fs::rename(ca.join("root.pem"), ca.join("trust/old.pem")).expect("moved");
    std::fs::remove_file(ca.join("trust/next.pem")).expect("removed");
    for half in ["root.pem", "root.key"] {
        std::fs::rename(next.join(half), ca.join(half)).expect("moved");
    }
    farm.restart().await;
    let machine = machine.renew(&farm).await;
    farm.leave().await;
    std::fs::remove_dir_all(ca.join("trust")).expect("removed");
    farm.restart().await;
    assert_eq!(machine.who(&farm).await.expect("known").name, "w1", "by the new root alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_does_not_outlive_its_certificate() {
    let farm = farm(|remote| remote.certificate_life = Duration::from_secs(3)).await;
    let (join, _) = token(&farm, CreateJoinTokenRequest::default()).await;
    let machine = Machine::join(&join, "w1").await;
    let client = WorkerServiceClient::new(machine.channel(&farm));
    // On a slow machine the three seconds may be over before there is a link at all.
    if let Ok(mut worker) = FakeWorker::connect_over(client, hello("w1", 1)).await {
        let status = timeout(PATIENCE, worker.ended()).await.expect("it ends");
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
    }
}
