//! Tokens of an authorization server: made for this gateway by the issuer that was configured, or nothing.

use std::{fs, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use muster_mcp_gateway::{Auth, HttpConfig, Issuer, Keys};
use muster_proto::v1::Role;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::site::Site;

const ISSUER: &str = "https://login.example";
const RESOURCE: &str = "https://farm.example/mcp";

enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl Signer {
    fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key"))
    }

    fn p256() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        Self::P256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("a key"))
    }

    fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig",
                "x": BASE64.encode(key.public_key())}),
            Self::P256(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": id,
                    "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..])})
            }
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = match self {
            Self::Ed25519(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
            Self::P256(key) => {
                key.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed").as_ref().to_vec()
            }
        };
        format!("{signed}.{}", BASE64.encode(signature))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "ada@example", "aud": RESOURCE, "exp": now() + 600, "scope": "openid read"})
}

async fn site(keys: Keys) -> Site {
    let issuer = Issuer { issuer: ISSUER.into(), keys, role: Role::Operator, projects: vec!["api".into()] };
    let auth = Some(Auth { issuer: Some(issuer) });
    Site::with(HttpConfig { auth, public_url: Some(RESOURCE.into()), ..HttpConfig::default() }).await
}

fn keys_in(folder: &TempDir, keys: &[Value]) -> Keys {
    let path = folder.path().join("keys.json");
    fs::write(&path, json!({"keys": keys}).to_string()).expect("written");
    Keys::File(path)
}

#[tokio::test]
async fn a_token_of_the_issuer_made_for_this_gateway_counts_as_far_as_its_scopes_go() {
    let folder = TempDir::new().expect("a folder");
    let (first, second) = (Signer::ed25519(), Signer::p256());
    let site = site(keys_in(&folder, &[first.jwk("one"), second.jwk("two"), json!({"kty": "oct"})])).await;
    for (signer, header) in [
        (&first, json!({"alg": "EdDSA", "kid": "one"})),
        (&second, json!({"alg": "ES256", "kid": "two", "typ": "at+jwt"})),
    ] {
        let token = signer.sign(&header, &claims());
        site.ok_as(&token, "list_sessions", json!({})).await;
        let (code, head, _) = site.call_as(Some(&token), "spawn_session", json!({"prompt": "p"})).await;
        assert_eq!(code, 403, "{head}");
        assert!(head.contains("insufficient_scope"), "{head}");
    }
    let state = site.controller.fake.state();
    let principal = &state.principals[0];
    assert_eq!(principal.name, "jwt.ada@example");
    assert_eq!((principal.role(), principal.scopes.as_slice()), (Role::Operator, &["read".to_owned()][..]));
    assert_eq!(principal.projects, ["api"]);
    assert!(principal.expires_at.is_some(), "so that its end ends what it began");
    assert_eq!(state.checks, 0, "the controller knows nothing of such tokens");
}

#[tokio::test]
async fn any_other_token_gives_nothing() {
    let folder = TempDir::new().expect("a folder");
    let (key, stranger) = (Signer::ed25519(), Signer::ed25519());
    let site = site(keys_in(&folder, &[key.jwk("one")])).await;
    let header = json!({"alg": "EdDSA", "kid": "one"});
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        key.sign(&header, &claims)
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().expect("an object").remove(name);
        key.sign(&header, &claims)
    };
    let good = key.sign(&header, &claims());
    let (head, rest) = good.split_once('.').expect("parts");
    let none = BASE64.encode(json!({"alg": "none"}).to_string());
    for (what, token) in [
        ("another issuer", with("iss", json!("https://evil.example"))),
        ("another audience", with("aud", json!("https://other.example/mcp"))),
        ("a longer audience", with("aud", json!(format!("{RESOURCE}.evil.example")))),
        ("other audiences", with("aud", json!(["a", "b"]))),
        ("expired", with("exp", json!(now() - 60))),
        ("an end in words", with("exp", json!("never"))),
        ("not yet", with("nbf", json!(now() + 600))),
        ("not yet, in words", with("nbf", json!("tomorrow"))),
        ("nobody", with("sub", json!(""))),
        ("no end", without("exp")),
        ("no audience", without("aud")),
        ("no issuer", without("iss")),
        ("another's signature", stranger.sign(&header, &claims())),
        ("a key nobody has", key.sign(&json!({"alg": "EdDSA", "kid": "two"}), &claims())),
        ("another algorithm", key.sign(&json!({"alg": "HS256", "kid": "one"}), &claims())),
        ("no algorithm", format!("{none}.{}.", rest.split_once('.').expect("parts").0)),
        ("extensions", key.sign(&json!({"alg": "EdDSA", "kid": "one", "crit": ["x"]}), &claims())),
        ("cut", good[..good.len() - 10].to_owned()),
        ("other claims", format!("{head}.{}.{}", BASE64.encode(with("sub", json!("root"))), "x")),
    ] {
        let (code, head, body) = site.call_as(Some(&token), "list_sessions", json!({})).await;
        assert_eq!(code, 401, "{what}: {head}\n{body}");
        assert!(head.contains("error=\"invalid_token\""), "{what}: {head}");
    }
    // Without any scope of ours it is good for nothing, and says so.
    for scope in [json!("openid email"), json!("reader"), Value::Null] {
        let token = with("scope", scope);
        let (code, head, _) = site.call_as(Some(&token), "list_sessions", json!({})).await;
        assert_eq!(code, 403, "{head}");
    }
    assert!(site.controller.fake.state().lists.is_empty());
    site.ok_as(&good, "list_sessions", json!({})).await;
}

#[tokio::test]
async fn names_that_the_controller_does_not_take_are_hashed_and_stay_apart() {
    let folder = TempDir::new().expect("a folder");
    let key = Signer::ed25519();
    let site = site(keys_in(&folder, &[key.jwk("one")])).await;
    for subject in ["auth0|ada", "auth0|bob", &"a".repeat(200)] {
        let mut claims = claims();
        claims["sub"] = json!(subject);
        // The only key there is need not be named.
        let token = key.sign(&json!({"alg": "EdDSA"}), &claims);
        site.ok_as(&token, "list_sessions", json!({})).await;
    }
    let state = site.controller.fake.state();
    let mut names: Vec<String> = state.principals.iter().map(|principal| principal.name.clone()).collect();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
    assert!(names.iter().all(|name| name.len() <= 64 && name.chars().all(plain)), "{names:?}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3);
}

#[tokio::test]
async fn keys_come_from_this_machine_and_a_new_key_is_looked_up_once_in_a_while() {
    let key = Signer::ed25519();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
    let set = json!({"keys": [key.jwk("one")]}).to_string();
    let served = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = served.clone();
    let _serving = muster_runtime::task::spawn("keys", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.expect("read");
            assert!(request[..read].starts_with(b"GET /keys HTTP/1.1\r\n"));
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{set}",
                set.len()
            );
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    });
    let site = site(Keys::Url(url)).await;
    let good = key.sign(&json!({"alg": "EdDSA", "kid": "one"}), &claims());
    site.ok_as(&good, "list_sessions", json!({})).await;
    for number in 0..5 {
        let header = json!({"alg": "EdDSA", "kid": format!("new-{number}")});
        let (code, ..) = site.call_as(Some(&key.sign(&header, &claims())), "list_sessions", json!({})).await;
        assert_eq!(code, 401);
    }
    let fetched = served.load(std::sync::atomic::Ordering::SeqCst);
    assert!((1..=3).contains(&fetched), "fetched {fetched} times");
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_no_wrong_token() {
    let folder = TempDir::new().expect("a folder");
    let site = site(Keys::File(folder.path().join("nothing.json"))).await;
    let token = Signer::ed25519().sign(&json!({"alg": "EdDSA", "kid": "one"}), &claims());
    let (code, head, _) = site.call_as(Some(&token), "list_sessions", json!({})).await;
    assert_eq!(code, 503, "{head}");
}
