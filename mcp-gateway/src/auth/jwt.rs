//! Tokens of an authorization server: JSON Web Tokens signed by a key of the issuer that was configured.
//!
//! `ring` checks signatures; what is done here is to read the envelope strictly. The algorithm is the key's, never
//! the token's choice. Invariant: a token that names another issuer, another audience than this gateway, no end, or
//! none of our scopes gives nothing.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use muster_proto::v1::Principal;
use ring::digest;
use serde::{Deserialize, de::DeserializeOwned};

use super::{Refused, jwks::KeySet};
use crate::{caller::Scope, config::Issuer};

/// Clocks differ by as much.
const LEEWAY: Duration = Duration::from_secs(30);
/// Longest name of a principal that the controller takes.
const NAME_CHARS: usize = 64;
/// Before the subject, so that no issuer can name somebody who has an access token.
const PREFIX: &str = "jwt.";

/// Checks the tokens of one issuer.
#[derive(Debug)]
pub(crate) struct Verifier {
    issuer: Issuer,
    /// Whom tokens must be made for: the address of this gateway.
    resource: String,
    keys: KeySet,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood: there are none we do.
    crit: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    nbf: Option<u64>,
    scope: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self, resource: &str) -> bool {
        let same = |audience: &String| audience.trim_end_matches('/') == resource.trim_end_matches('/');
        match self {
            Self::One(audience) => same(audience),
            Self::Many(audiences) => audiences.iter().any(same),
        }
    }
}

fn wrong(what: &str) -> Refused {
    Refused::Token(format!("the token {what}"))
}

impl Verifier {
    pub(crate) fn new(issuer: Issuer, resource: &str) -> Self {
        let keys = KeySet::new(issuer.keys.clone());
        Self { issuer, resource: resource.to_owned(), keys }
    }

    /// Whom `token` vouches for at the time `now`.
    pub(crate) async fn verify(&self, token: &str, now: SystemTime) -> Result<Principal, Refused> {
        let mut parts = token.split('.');
        let (Some(head), Some(body), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong("is no JSON Web Token"));
        };
        let header: Header = decoded(head)?;
        if header.crit.is_some() {
            return Err(wrong("needs extensions that are not known here"));
        }
        let signature = BASE64.decode(signature).map_err(|_| wrong("cannot be read"))?;
        let signed = &token.as_bytes()[..head.len() + 1 + body.len()];
        let key = self.keys.find(header.kid.as_deref()).await?;
        if !key.verifies(&header.alg, signed, &signature) {
            return Err(wrong("is not signed by its issuer"));
        }
        self.principal(decoded(body)?, now)
    }

    fn principal(&self, claims: Claims, now: SystemTime) -> Result<Principal, Refused> {
        if claims.iss != self.issuer.issuer {
            return Err(wrong("is of another issuer"));
        }
        if !claims.aud.names(&self.resource) {
            return Err(wrong("was made for another audience"));
        }
        let at = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let ends = at(claims.exp).ok_or_else(|| wrong("has no end"))?;
        // Subtracted, not added: an end may lie at the end of time.
        if now.duration_since(ends).is_ok_and(|past| past >= LEEWAY) {
            return Err(wrong("has expired"));
        }
        if claims.nbf.is_some_and(|from| at(from).is_none_or(|from| from > now + LEEWAY)) {
            return Err(wrong("does not count yet"));
        }
        let given = claims.scope.unwrap_or_default();
        let scopes: Vec<String> = Scope::ALL
            .into_iter()
            .map(Scope::name)
            .filter(|known| given.split(' ').any(|scope| scope == *known))
            .map(ToOwned::to_owned)
            .collect();
        if claims.sub.is_empty() {
            return Err(wrong("names nobody"));
        }
        // An empty list would mean all of them.
        let scopes = if scopes.is_empty() { vec!["none".to_owned()] } else { scopes };
        Ok(Principal {
            name: name(&claims.sub),
            role: self.issuer.role.into(),
            projects: self.issuer.projects.clone(),
            scopes,
            session: String::new(),
            expires_at: Some(muster_proto::time::from_system(ends)),
            access_id: String::new(),
        })
    }
}

/// The subject, if the controller takes it as a name, else a name made of its hash.
fn name(subject: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
    if subject.len() + PREFIX.len() <= NAME_CHARS && subject.chars().all(plain) {
        return format!("{PREFIX}{subject}");
    }
    let digest = digest::digest(&digest::SHA256, subject.as_bytes());
    let hash: String = BASE64.encode(digest.as_ref()).chars().take(43).collect();
    format!("jwt-sha256.{hash}")
}

fn decoded<T: DeserializeOwned>(part: &str) -> Result<T, Refused> {
    let bytes = BASE64.decode(part).map_err(|_| wrong("cannot be read"))?;
    serde_json::from_slice(&bytes).map_err(|_| wrong("lacks a claim it needs (iss, sub, aud, exp)"))
}
