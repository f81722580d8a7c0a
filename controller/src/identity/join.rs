//! Machines that become workers: join tokens, certificates, and their end.

use std::{collections::BTreeMap, io, sync::PoisonError, time::Duration};

use muster_proto::{
    error::{Error, ErrorCode},
    ids::WorkerId,
    v1::{self, Role},
};
use muster_runtime::{shutdown::Shutdown, tls::Peer};
use prost_types::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    Identities, Principal, TOKENS,
    ca::{self, ProvenKey},
    record::{Join, Joined, Use, is_past},
    secret,
};
use crate::{
    session::stored,
    store::{self, Revision, Shared, Txn, keys, value::Kind},
};

/// What a join token begins with: a name for secret scanners.
const PREFIX: &str = "mustjoin_";

/// Keys a worker may show at one time: the one it has and the one it changes to.
const KEYS: usize = 2;

pub(super) struct KeptJoin {
    record: Join,
    revision: Revision,
}

pub(super) struct KeptWorker {
    record: Joined,
    revision: Revision,
    revoked: Shutdown,
    /// When its newest certificate ends.
    expires_at: watch::Sender<Option<Timestamp>>,
}

/// What is stored of joining.
#[derive(Default)]
pub(super) struct Machines {
    joins: BTreeMap<String, KeptJoin>,
    workers: BTreeMap<WorkerId, KeptWorker>,
}

/// What a new join token is to be.
#[derive(Debug, Clone)]
pub struct NewJoin {
    /// The one worker it is for; none: any.
    pub worker: Option<WorkerId>,
    /// How long it counts.
    pub ttl: Duration,
    /// Machines that may join with it.
    pub uses: u32,
    /// Labels they get.
    pub labels: BTreeMap<String, String>,
}

/// A certificate that was given.
#[derive(Debug)]
pub struct Granted {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// The roots that are believed, DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Whose it is.
    pub worker: WorkerId,
}

impl Machines {
    pub(super) async fn load(store: &Shared) -> Result<Self, store::Error> {
        let mut machines = Self::default();
        for (key, entry) in store.scan(keys::JOINS).await? {
            match (key.strip_prefix(keys::JOINS), stored::opened::<Join>(Kind::Join, &entry.value)) {
                (Some(id), Ok(record)) => {
                    machines.joins.insert(id.to_owned(), KeptJoin { record, revision: entry.revision });
                }
                _ => warn!(key, "a stored join token cannot be read and counts for nothing"),
            }
        }
        for (key, entry) in store.scan(keys::JOINED).await? {
            let name = key.strip_prefix(keys::JOINED).and_then(|name| name.parse().ok());
            match (name, stored::opened::<Joined>(Kind::Joined, &entry.value)) {
                (Some(worker), Ok(record)) => {
                    machines.workers.insert(worker, KeptWorker::new(record, entry.revision));
                }
                _ => warn!(key, "a stored worker cannot be read and has to join again"),
            }
        }
        Ok(machines)
    }
}

impl KeptWorker {
    fn new(record: Joined, revision: Revision) -> Self {
        let revoked = Shutdown::new();
        if record.revoked {
            revoked.request();
        }
        let expires_at = watch::Sender::new(record.expires_at);
        Self { record, revision, revoked, expires_at }
    }
}

impl Identities {
    /// Makes a join token; returns it with its secret and the hash of the CA's key.
    ///
    /// # Errors
    /// When it cannot be made durable, or there are too many.
    pub async fn create_join(&self, new: NewJoin) -> Result<(String, v1::JoinToken), Error> {
        if self.machines().joins.len() >= TOKENS {
            return Err(Error::new(
                ErrorCode::LimitReached,
                format!("there are {TOKENS} join tokens already"),
            ));
        }
        let random = |error: io::Error| Error::new(ErrorCode::Internal, error.to_string());
        let (id, secret) = (secret::id().map_err(random)?, secret::secret().map_err(random)?);
        let now = muster_proto::time::now();
        let record = Join {
            worker: new.worker.map(String::from).unwrap_or_default(),
            hash: self.0.hasher.hash(&secret),
            expires_at: Some(Timestamp {
                seconds: now.seconds.saturating_add_unsigned(new.ttl.as_secs()),
                ..now
            }),
            uses: new.uses,
            labels: new.labels,
            ..Join::default()
        };
        let mut txn = Txn::new();
        txn.expect(keys::join(&id), 0).put(keys::join(&id), stored::sealed(Kind::Join, &record));
        let revision = self.commit(txn).await?;
        info!(join.id = id, uses = record.uses, "a join token is made");
        let view = record.view(&id);
        self.machines_mut().joins.insert(id.clone(), KeptJoin { record, revision });
        Ok((format!("{PREFIX}{id}_{secret}.{}", self.0.ca.pin()), view))
    }

    /// All join tokens, by id.
    #[must_use]
    pub fn list_joins(&self) -> Vec<v1::JoinToken> {
        self.machines().joins.iter().map(|(id, kept)| kept.record.view(id)).collect()
    }

    /// Revokes a join token. Who joined with it stays.
    ///
    /// # Errors
    /// TOKEN_NOT_FOUND, or when it cannot be made durable.
    pub async fn revoke_join(&self, id: &str) -> Result<(), Error> {
        let _turn = self.0.machine_change.lock().await;
        let found = self.machines().joins.get(id).map(|kept| (kept.record.clone(), kept.revision));
        let (mut record, before) = found.ok_or_else(|| {
            let error = Error::new(ErrorCode::TokenNotFound, format!("there is no join token {id:?}"));
            Error { field: "id".to_owned(), ..error }.hint("List the join tokens to find its id.")
        })?;
        record.revoked = true;
        let mut txn = Txn::new();
        txn.expect(keys::join(id), before).put(keys::join(id), stored::sealed(Kind::Join, &record));
        let revision = self.commit(txn).await?;
        info!(join.id = id, "a join token is revoked");
        self.machines_mut().joins.insert(id.to_owned(), KeptJoin { record, revision });
        Ok(())
    }

    /// Makes whoever has a join token and a key a worker. The use is durable before the certificate is given,
    /// and the same key may ask again: an answer that was lost costs no token.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a word on why; INVALID_ARGUMENT for a name that is taken; as the store says.
    pub async fn enrol(&self, token: &str, key: &ProvenKey, wanted: &str) -> Result<Granted, Error> {
        let _turn = self.0.machine_change.lock().await;
        let hash = key.hash();
        let (id, mut join, join_before) = self.join_of(token)?;
        let again = join.used.iter().find(|used| used.key == hash).map(|used| used.worker.clone());
        if again.is_none() && join.used.len() >= join.uses as usize {
            return Err(refused());
        }
        let name = match &again {
            Some(worker) => worker.as_str(),
            None if join.worker.is_empty() => wanted,
            None => join.worker.as_str(),
        };
        let worker: WorkerId = name.parse().map_err(|error| Error::invalid("worker", format!("{error}")))?;
        let known = self.machines().workers.get(&worker).map(|kept| (kept.record.clone(), kept.revision));
        let (before, taken) = match &known {
            Some((record, revision)) => (*revision, !record.revoked && !record.keys.contains(&hash)),
            None => (0, false),
        };
        // Only who may make a token for a name may replace the machine that has it.
        if taken && join.worker.is_empty() {
            return Err(Error::invalid(
                "worker",
                format!("is {worker}, and a worker of this name has joined"),
            )
            .hint("Choose another name, or have a token made for this one."));
        }
        let (certificate, expires_at) = self.certificate(&worker, key)?;
        let joined = Joined {
            keys: vec![hash.clone()],
            labels: join.labels.clone(),
            revoked: false,
            joined_at: Some(muster_proto::time::now()),
            expires_at: Some(expires_at),
        };
        if again.is_none() {
            join.used.push(Use { key: hash, worker: worker.to_string() });
        }
        let mut txn = Txn::new();
        txn.expect(keys::join(&id), join_before).put(keys::join(&id), stored::sealed(Kind::Join, &join));
        let joined_key = keys::joined(worker.as_str());
        txn.expect(joined_key.clone(), before).put(joined_key, stored::sealed(Kind::Joined, &joined));
        let revision = self.commit(txn).await?;
        info!(worker.id = %worker, join.id = id, again = again.is_some(), "a worker joined");
        let mut machines = self.machines_mut();
        machines.joins.insert(id, KeptJoin { record: join, revision });
        let old = machines.workers.insert(worker.clone(), KeptWorker::new(joined, revision));
        drop(machines);
        if let Some(old) = old.filter(|_| taken) {
            // Another machine has the name now.
            old.revoked.request();
        }
        Ok(Granted { certificate, roots: self.0.ca.roots().to_vec(), expires_at, worker })
    }

    /// A new certificate for a worker that shows it is one. With another key the old one counts until the
    /// renewal after.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it is none any more; as the store says.
    pub async fn renew(&self, worker: &WorkerId, key: &ProvenKey) -> Result<Granted, Error> {
        let _turn = self.0.machine_change.lock().await;
        let found = self.machines().workers.get(worker).map(|kept| (kept.record.clone(), kept.revision));
        let (mut record, before) = found.filter(|(record, _)| !record.revoked).ok_or_else(refused)?;
        let (certificate, expires_at) = self.certificate(worker, key)?;
        let hash = key.hash();
        record.keys.retain(|known| *known != hash);
        record.keys.insert(0, hash);
        record.keys.truncate(KEYS);
        record.expires_at = Some(expires_at);
        let joined_key = keys::joined(worker.as_str());
        let mut txn = Txn::new();
        txn.expect(joined_key.clone(), before).put(joined_key, stored::sealed(Kind::Joined, &record));
        let revision = self.commit(txn).await?;
        if let Some(kept) = self.machines_mut().workers.get_mut(worker) {
            kept.expires_at.send_replace(Some(expires_at));
            (kept.record, kept.revision) = (record, revision);
        }
        info!(worker.id = %worker, "a certificate is renewed");
        Ok(Granted { certificate, roots: self.0.ca.roots().to_vec(), expires_at, worker: worker.clone() })
    }

    /// Takes a worker's identity away: durable, then its open calls end.
    ///
    /// # Errors
    /// WORKER_NOT_FOUND, or when it cannot be made durable: then it counts on.
    pub async fn revoke_worker(&self, worker: &WorkerId) -> Result<(), Error> {
        let _turn = self.0.machine_change.lock().await;
        let found = self.machines().workers.get(worker).map(|kept| (kept.record.clone(), kept.revision));
        let (mut record, before) = found.ok_or_else(|| {
            let error = Error::new(ErrorCode::WorkerNotFound, format!("no worker {worker} has joined"));
            Error { field: "worker".to_owned(), ..error }.hint("List the workers to find its name.")
        })?;
        record.revoked = true;
        let joined_key = keys::joined(worker.as_str());
        let mut txn = Txn::new();
        txn.expect(joined_key.clone(), before).put(joined_key, stored::sealed(Kind::Joined, &record));
        let revision = self.commit(txn).await?;
        warn!(worker.id = %worker, "a worker's identity is taken away");
        if let Some(kept) = self.machines_mut().workers.get_mut(worker) {
            kept.revoked.request();
            (kept.record, kept.revision) = (record, revision);
        }
        Ok(())
    }

    /// Whose certificate a peer showed; none: it showed none.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it is nobody's any more.
    pub fn by_peer(&self, peer: &Peer) -> Result<Option<Principal>, Error> {
        let Some(certificate) = &peer.certificate else { return Ok(None) };
        let shown = ca::shown(certificate).ok_or_else(refused)?;
        let machines = self.machines();
        let kept = machines.workers.get(&shown.worker).filter(|kept| {
            !kept.record.revoked && kept.record.keys.contains(&shown.key) && !is_past(kept.record.expires_at)
        });
        let kept = kept.ok_or_else(refused)?;
        Ok(Some(Principal {
            name: shown.worker.to_string(),
            role: Role::Worker,
            expires_at: kept.expires_at.subscribe(),
            revoked: kept.revoked.clone(),
            ..Principal::local()
        }))
    }

    /// When the certificate of a worker ends; none of one that has none.
    #[must_use]
    pub fn certificate_of(&self, worker: &WorkerId) -> Option<Timestamp> {
        self.machines().workers.get(worker).filter(|kept| !kept.record.revoked)?.record.expires_at
    }

    /// Labels a worker was given when it joined.
    #[must_use]
    pub fn labels_of(&self, worker: &WorkerId) -> BTreeMap<String, String> {
        self.machines().workers.get(worker).map(|kept| kept.record.labels.clone()).unwrap_or_default()
    }

    fn join_of(&self, token: &str) -> Result<(String, Join, Revision), Error> {
        // What follows the secret is for the machine.
        let token = token.trim().split(['.', '@']).next().unwrap_or_default();
        let parts = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_'));
        let (id, secret) = parts.ok_or_else(refused)?;
        let machines = self.machines();
        let kept = machines.joins.get(id).filter(|kept| {
            let record = &kept.record;
            self.0.hasher.matches(secret, &record.hash) && !record.revoked && !is_past(record.expires_at)
        });
        kept.map(|kept| (id.to_owned(), kept.record.clone(), kept.revision)).ok_or_else(refused)
    }

    fn certificate(
        &self,
        worker: &WorkerId,
        key: &ProvenKey,
    ) -> Result<(CertificateDer<'static>, Timestamp), Error> {
        let signed = self.0.ca.worker(worker, key, self.0.certificate_life);
        signed
            .map_err(|error| Error::new(ErrorCode::Internal, format!("no certificate can be made: {error}")))
    }

    fn machines(&self) -> std::sync::RwLockReadGuard<'_, Machines> {
        self.0.machines.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn machines_mut(&self) -> std::sync::RwLockWriteGuard<'_, Machines> {
        self.0.machines.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One answer for all that is wrong with a join token or a certificate: whoever guesses learns nothing.
fn refused() -> Error {
    Error::new(ErrorCode::Unauthenticated, "the join token or certificate is not known, or no longer good")
        .hint("Have a new join token made and join again.")
}
