//! Who calls, and what they may do.
//!
//! Owns access tokens, join tokens, the farm's authority ([`ca`]) and the one table of roles ([`roles`]).
//! Called by the gate in front of every service and by the service that makes and revokes identities. What
//! decides is in memory, what is decided is durable first. Invariant: a secret is in the answer that made it
//! and nowhere else, not in the store and not in a log.

pub mod ca;
pub mod join;
pub mod principal;
mod record;
pub mod roles;
mod secret;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use muster_proto::{
    error::{Error, ErrorCode},
    ids::SessionId,
    metadata::ON_BEHALF_OF,
    v1::{self, Role},
};
use muster_runtime::shutdown::Shutdown;
use prost_types::Timestamp;
use tracing::{info, warn};

pub use self::principal::{Principal, Scopes};
use self::{
    ca::Ca,
    join::Machines,
    principal::at,
    record::{Access, is_past},
    secret::Hasher,
};
use crate::{
    session::stored,
    store::{self, Revision, Shared, Txn, keys, value::Kind},
};

/// What an access token begins with: a name for secret scanners.
const PREFIX: &str = "muster_";
/// Access tokens at most, revoked and expired ones included: all are looked through by people.
const TOKENS: usize = 10_000;
/// How long an access token that has expired is shown, in seconds; one for a session goes at once.
const SHOWN_SECONDS: i64 = 7 * 24 * 3600;
/// Old tokens forgotten with each new one: bounds the transaction, and more go than come.
const FORGOTTEN: usize = 16;

/// Why identities cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The key of the secrets' hashes.
    #[error("the key file {path} cannot be used: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The farm's authority.
    #[error("the certificate authority cannot be used: {0}")]
    Ca(#[from] ca::CaError),
    /// The tokens.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// All who are known. Cheap to clone.
#[derive(Clone)]
pub struct Identities(Arc<Inner>);

struct Inner {
    store: Shared,
    hasher: Hasher,
    ca: Arc<Ca>,
    certificate_life: Duration,
    machines: RwLock<Machines>,
    /// Held from reading a machine's record until its change is durable: machines join and renew at the same moment.
    machine_change: tokio::sync::Mutex<()>,
    access: RwLock<BTreeMap<String, Kept>>,
}

struct Kept {
    record: Access,
    revision: Revision,
    revoked: Shutdown,
}

impl Kept {
    fn is_good(&self) -> bool {
        !self.record.revoked && !is_past(self.record.expires_at)
    }

    fn is_forgettable(&self) -> bool {
        let shown = if self.record.session.is_empty() { SHOWN_SECONDS } else { 0 };
        self.record.is_long_over(shown)
    }

    fn principal(&self) -> Result<Principal, Error> {
        let record = &self.record;
        // What cannot be read was written by a newer build: it must not count for more than it says.
        let scopes = Scopes::parse(&record.scopes).ok_or_else(unknown)?;
        let session = match record.session.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|_| unknown())?),
        };
        Ok(Principal {
            name: record.name.clone(),
            role: record.role(),
            projects: record.projects.clone(),
            scopes,
            session,
            expires_at: at(record.expires_at),
            revoked: self.revoked.clone(),
            behalf: None,
        })
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identities")
    }
}

/// What a new access token is to be.
#[derive(Debug, Clone)]
pub struct NewAccess {
    /// Whose; checked.
    pub name: String,
    /// Not worker.
    pub role: Role,
    /// Empty: all.
    pub projects: Vec<String>,
    /// How long it counts.
    pub ttl: Duration,
    /// Names of scopes; empty: all.
    pub scopes: Vec<String>,
    /// The session it is for.
    pub session: Option<SessionId>,
}

impl Identities {
    /// Loads all there are. In `folder` are the key of the hashes and the authority, made when there are none.
    /// Certificates of workers live for `certificate_life`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(folder: &Path, store: Shared, certificate_life: Duration) -> Result<Self, OpenError> {
        let key = folder.join("secrets.key");
        let hasher = Hasher::open(&key).map_err(|source| OpenError::Key { path: key, source })?;
        let ca = Arc::new(Ca::open(&folder.join("ca"))?);
        let machines = RwLock::new(Machines::load(&store).await?);
        let mut access = BTreeMap::new();
        for (key, entry) in store.scan(keys::ACCESS).await? {
            match (key.strip_prefix(keys::ACCESS), stored::opened::<Access>(Kind::Access, &entry.value)) {
                (Some(id), Ok(record)) => {
                    let kept = Kept { record, revision: entry.revision, revoked: Shutdown::new() };
                    access.insert(id.to_owned(), kept);
                }
                _ => warn!(key, "a stored access token cannot be read and counts for nothing"),
            }
        }
        let access = RwLock::new(access);
        let machine_change = tokio::sync::Mutex::default();
        Ok(Self(Arc::new(Inner { store, hasher, ca, certificate_life, machines, machine_change, access })))
    }

    /// The farm's authority.
    #[must_use]
    pub fn ca(&self) -> &Arc<Ca> {
        &self.0.ca
    }

    /// Whose token this is, and its id.
    ///
    /// # Errors
    /// UNAUTHENTICATED, without a word on why.
    pub fn by_token(&self, token: &str) -> Result<(String, Principal), Error> {
        let access = self.0.access.read().unwrap_or_else(PoisonError::into_inner);
        let found = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_'));
        let kept = found.and_then(|(id, secret)| Some((id, access.get(id)?, secret)));
        let (id, kept, _) = kept
            .filter(|(_, kept, secret)| self.0.hasher.matches(secret, &kept.record.hash) && kept.is_good())
            .ok_or_else(unknown)?;
        Ok((id.to_owned(), kept.principal()?))
    }

    /// Whom a gateway says it speaks for. Of an access token no more than the token is.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what is nobody; UNAUTHENTICATED for who is nobody any more.
    pub fn behalf(&self, said: &v1::Principal) -> Result<Principal, Error> {
        let invalid = |what: &str| Error::invalid(ON_BEHALF_OF, format!("names a principal {what}"));
        if is_past(said.expires_at) {
            return Err(unknown());
        }
        let scopes =
            Scopes::parse(&said.scopes).ok_or_else(|| invalid("with a scope that does not exist"))?;
        let session = match said.session.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|_| invalid("for a session that is no id"))?),
        };
        let mut principal = Principal {
            name: said.name.clone(),
            role: said.role(),
            projects: said.projects.clone(),
            scopes,
            session,
            expires_at: at(said.expires_at),
            revoked: Shutdown::new(),
            behalf: None,
        };
        if !said.access_id.is_empty() {
            let access = self.0.access.read().unwrap_or_else(PoisonError::into_inner);
            let kept = access.get(&said.access_id).filter(|kept| kept.is_good()).ok_or_else(unknown)?;
            let own = kept.principal()?;
            if own.name != principal.name || own.role != principal.role {
                return Err(invalid("that its access token is not"));
            }
            principal.projects = match (own.projects.is_empty(), principal.projects.is_empty()) {
                (true, _) => principal.projects,
                (false, true) => own.projects,
                (false, false) => {
                    principal.projects.retain(|project| own.projects.contains(project));
                    if principal.projects.is_empty() {
                        return Err(invalid("with projects that its access token has not"));
                    }
                    principal.projects
                }
            };
            principal.scopes = principal.scopes.and(own.scopes);
            principal.session = own.session.or(principal.session);
            (principal.expires_at, principal.revoked) = (own.expires_at, own.revoked);
        }
        Ok(principal)
    }

    /// Makes an access token; returns it with its secret.
    ///
    /// # Errors
    /// When it cannot be made durable, or there are too many.
    pub async fn create(&self, new: NewAccess) -> Result<(String, v1::Access), Error> {
        let old = {
            let access = self.0.access.read().unwrap_or_else(PoisonError::into_inner);
            let old = access.iter().filter(|(_, kept)| kept.is_forgettable()).take(FORGOTTEN);
            let old: Vec<_> = old.map(|(id, _)| id.clone()).collect();
            if access.len() - old.len() >= TOKENS {
                let message = format!("there are {TOKENS} access tokens already");
                return Err(Error::new(ErrorCode::LimitReached, message));
            }
            old
        };
        let random = |error: io::Error| Error::new(ErrorCode::Internal, error.to_string());
        let (id, secret) = (secret::id().map_err(random)?, secret::secret().map_err(random)?);
        let mut record = Access::new(new.name, new.role, new.projects, self.0.hasher.hash(&secret));
        record.scopes = new.scopes;
        record.session = new.session.map(|id| id.to_string()).unwrap_or_default();
        let now = muster_proto::time::now();
        record.expires_at =
            Some(Timestamp { seconds: now.seconds.saturating_add_unsigned(new.ttl.as_secs()), ..now });
        let key = keys::access(&id);
        let mut txn = Txn::new();
        txn.expect(key.clone(), 0).put(key, stored::sealed(Kind::Access, &record));
        for id in &old {
            // Whoever revokes one just now loses to this and is told that there is none: it was over.
            txn.delete(keys::access(id));
        }
        let revision = self.commit(txn).await?;
        info!(
            access.id = id,
            name = record.name,
            role = record.role().as_str_name(),
            "an access token is made"
        );
        let view = record.view(&id);
        let kept = Kept { record, revision, revoked: Shutdown::new() };
        let mut access = self.0.access.write().unwrap_or_else(PoisonError::into_inner);
        for id in &old {
            access.remove(id);
        }
        access.insert(id.clone(), kept);
        Ok((format!("{PREFIX}{id}_{secret}"), view))
    }

    /// All access tokens, by id.
    #[must_use]
    pub fn list(&self) -> Vec<v1::Access> {
        let access = self.0.access.read().unwrap_or_else(PoisonError::into_inner);
        access.iter().map(|(id, kept)| kept.record.view(id)).collect()
    }

    /// Revokes an access token: durable, then its open calls end.
    ///
    /// # Errors
    /// TOKEN_NOT_FOUND, or when it cannot be made durable: then it counts on.
    pub async fn revoke(&self, id: &str) -> Result<(), Error> {
        let (mut record, before) = {
            let access = self.0.access.read().unwrap_or_else(PoisonError::into_inner);
            let kept = access.get(id).ok_or_else(|| {
                let error = Error::new(ErrorCode::TokenNotFound, format!("there is no access token {id:?}"));
                Error { field: "id".to_owned(), ..error }.hint("List the access tokens to find its id.")
            })?;
            (kept.record.clone(), kept.revision)
        };
        if record.revoked {
            return Ok(());
        }
        record.revoked = true;
        let revision = self.save(id, &record, before).await?;
        info!(access.id = id, name = record.name, "an access token is revoked");
        let mut access = self.0.access.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = access.get_mut(id) {
            kept.revoked.request();
            (kept.record, kept.revision) = (record, revision);
        }
        Ok(())
    }

    async fn save(&self, id: &str, record: &Access, before: Revision) -> Result<Revision, Error> {
        let key = keys::access(id);
        let mut txn = Txn::new();
        txn.expect(key.clone(), before).put(key, stored::sealed(Kind::Access, record));
        self.commit(txn).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, Error> {
        self.0.store.commit(txn).await.map_err(|error| {
            Error::new(ErrorCode::StoreUnavailable, error.to_string()).hint("Nothing was changed. Try again.")
        })
    }
}

/// One answer for all that is wrong with a token: whoever guesses learns nothing.
pub(crate) fn unknown() -> Error {
    Error::new(ErrorCode::Unauthenticated, "the access token is not known, or no longer good")
        .hint("Ask an admin of the farm for a new one.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{failing::Failing, memory::Memory};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn operator(ttl: u64) -> NewAccess {
        let projects = vec!["demo".to_owned()];
        let (scopes, ttl) = (Vec::new(), Duration::from_secs(ttl));
        NewAccess { name: "ann".into(), role: Role::Operator, projects, ttl, scopes, session: None }
    }

    #[tokio::test]
    async fn tokens_survive_a_restart_without_their_secrets_and_die_when_revoked() {
        let dir = tempfile::tempdir().expect("a folder");
        let key = dir.path();
        let store: Shared = Arc::new(Memory::default());
        let identities = Identities::open(key, Arc::clone(&store), DAY).await.expect("opened");
        let (token, info) = identities.create(operator(3600)).await.expect("made");
        let (other, _) = identities.create(operator(3600)).await.expect("made");
        let (_, secret) = token.strip_prefix(PREFIX).expect("ours").split_once('_').expect("two parts");
        for (_, entry) in store.scan("").await.expect("readable") {
            let held = |text: &str| entry.value.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(!held(secret), "the secret is in the store");
        }
        let again = Identities::open(key, Arc::clone(&store), DAY).await.expect("opened");
        let (_, ann) = again.by_token(&token).expect("known");
        assert_eq!(
            (ann.name.as_str(), ann.role, ann.projects.as_slice()),
            ("ann", Role::Operator, &["demo".to_owned()][..])
        );
        for wrong in ["", "x", &token[..token.len() - 1], &format!("{token}0"), &token.replace(&info.id, "0")]
        {
            assert_eq!(
                again.by_token(wrong).map(drop).expect_err("refused").code,
                ErrorCode::Unauthenticated
            );
        }
        again.revoke(&info.id).await.expect("revoked");
        again.revoke(&info.id).await.expect("twice is once");
        assert!(ann.revoked.is_requested(), "its calls end");
        assert_eq!(again.by_token(&token).map(drop).expect_err("refused"), unknown());
        assert!(again.by_token(&other).is_ok());
        assert_eq!(again.revoke("nobody").await.expect_err("refused").code, ErrorCode::TokenNotFound);
        let third = Identities::open(key, store, DAY).await.expect("opened");
        assert!(third.by_token(&token).is_err() && third.list().iter().any(|access| access.revoked));
    }

    #[tokio::test]
    async fn what_cannot_be_made_durable_is_neither_given_nor_taken_and_time_ends_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, switch) = Failing::new(Arc::new(Memory::default()));
        let identities = Identities::open(dir.path(), Arc::new(store), DAY).await.expect("opened");
        switch.fail(true);
        assert_eq!(identities.create(operator(9)).await.expect_err("full").code, ErrorCode::StoreUnavailable);
        assert!(identities.list().is_empty());
        switch.fail(false);
        let (token, info) = identities.create(operator(9)).await.expect("made");
        switch.fail(true);
        identities.revoke(&info.id).await.expect_err("full");
        assert!(identities.by_token(&token).is_ok());
        let (expired, _) = {
            switch.fail(false);
            identities.create(operator(0)).await.expect("made")
        };
        assert!(identities.by_token(&expired).is_err());
    }
}
