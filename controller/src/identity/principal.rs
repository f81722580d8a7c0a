//! Whom a call is from: an access token, a worker, the machine itself, and whom a gateway speaks for.
//!
//! Made by [`super::Identities`], carried by every request, asked by the gate and the services. Invariant: a
//! principal behind a gateway only ever narrows: role, scopes, projects and tree of both must allow it.

use muster_proto::{
    ids::SessionId,
    v1::{self, Role},
};
use muster_runtime::shutdown::Shutdown;
use prost_types::Timestamp;
use tokio::sync::watch;

use super::roles::{self, Need, Reach};
use crate::{engine::Scope, session::record::LOCAL};

/// What a token may be used for, whatever its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes {
    /// To see.
    pub read: bool,
    /// To change.
    pub write: bool,
    /// To ask for trust mode.
    pub trust: bool,
}

impl Scopes {
    /// As far as the role goes.
    pub const ALL: Self = Self { read: true, write: true, trust: true };

    /// Out of their names; none named: all. None for a name that is no scope.
    #[must_use]
    pub fn parse(names: &[String]) -> Option<Self> {
        if names.is_empty() {
            return Some(Self::ALL);
        }
        let mut scopes = Self { read: false, write: false, trust: false };
        for name in names {
            match name.as_str() {
                "read" => scopes.read = true,
                "write" => scopes.write = true,
                "trust" => scopes.trust = true,
                _ => return None,
            }
        }
        Some(scopes)
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            trust: self.trust && other.trust,
        }
    }

    /// Their names; none when it is all.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        if self == Self::ALL {
            return Vec::new();
        }
        let named = [("read", self.read), ("write", self.write), ("trust", self.trust)];
        named.iter().filter(|(_, has)| *has).map(|(name, _)| (*name).to_owned()).collect()
    }

    const fn is_empty(self) -> bool {
        !self.read && !self.write && !self.trust
    }
}

/// Whom the controller takes a caller for.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Of the token or the worker, or [`LOCAL`].
    pub name: String,
    /// What it may call.
    pub role: Role,
    /// Of which projects; empty: all.
    pub projects: Vec<String>,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The session that it is for: it sees what is below it and ends with it.
    pub session: Option<SessionId>,
    /// When it stops being who it is. A worker that renews moves it.
    pub expires_at: watch::Receiver<Option<Timestamp>>,
    /// Requested once it is revoked.
    pub revoked: Shutdown,
    /// Whom it speaks for, a gateway; none: itself.
    pub behalf: Option<Box<Principal>>,
}

/// Why two principals have nothing in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disjoint {
    /// No project is in both.
    #[error("the gateway and whom it speaks for have no project in common")]
    Projects,
    /// No scope is in both.
    #[error("the gateway and whom it speaks for have no scope in common")]
    Scopes,
}

impl Principal {
    /// Whoever calls from the controller's own machine.
    #[must_use]
    pub fn local() -> Self {
        Self {
            name: LOCAL.to_owned(),
            role: Role::Admin,
            projects: Vec::new(),
            scopes: Scopes::ALL,
            session: None,
            expires_at: at(None),
            revoked: Shutdown::new(),
            behalf: None,
        }
    }

    /// Whoever calls from elsewhere and shows nothing.
    #[must_use]
    pub fn nobody() -> Self {
        Self { name: String::new(), role: Role::Unspecified, ..Self::local() }
    }

    /// The same, speaking for `other`.
    ///
    /// # Errors
    /// When nothing would be left.
    pub fn speaking_for(mut self, other: Self) -> Result<Self, Disjoint> {
        let common = self.projects.iter().any(|project| other.projects.contains(project));
        if !self.projects.is_empty() && !other.projects.is_empty() && !common {
            return Err(Disjoint::Projects);
        }
        if self.scopes.and(other.scopes).is_empty() {
            return Err(Disjoint::Scopes);
        }
        self.behalf = Some(Box::new(other));
        Ok(self)
    }

    /// It, and whom it speaks for.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.behalf.as_deref())
    }

    /// Whose the sessions are that it spawns.
    #[must_use]
    pub fn caller(&self) -> String {
        match &self.behalf {
            None => self.name.clone(),
            Some(other) if self.role == Role::Orchestrator => format!("{}/{}", self.name, other.name),
            Some(other) => other.name.clone(),
        }
    }

    /// The sessions it may know of.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let own = self.narrow(Scope::all(), &self.name);
        match &self.behalf {
            None => own,
            Some(other) => other.narrow(own, &self.caller()),
        }
    }

    fn narrow(&self, scope: Scope, caller: &str) -> Scope {
        let scope = scope.in_projects(&self.projects);
        match self.session {
            // Whoever spawned what is in its tree.
            Some(session) => scope.below(session),
            None if self.role == Role::Orchestrator => scope.of_caller(caller),
            None => scope,
        }
    }

    /// What it may be used for.
    #[must_use]
    pub fn scopes(&self) -> Scopes {
        self.all().fold(Scopes::ALL, |scopes, one| scopes.and(one.scopes))
    }

    /// How far it reaches with the RPC at `path`, as far as roles go.
    #[must_use]
    pub fn reach(&self, path: &str) -> Reach {
        let reaches = self.all().map(|one| roles::reach(path, one.role));
        reaches.min().unwrap_or(Reach::Nothing)
    }

    /// The scope it lacks for the RPC at `path`.
    #[must_use]
    pub fn lacks(&self, path: &str) -> Option<&'static str> {
        let scopes = self.scopes();
        match roles::need(path) {
            Need::Read if !scopes.read => Some("read"),
            Need::Write if !scopes.write => Some("write"),
            Need::Nothing | Need::Read | Need::Write => None,
        }
    }

    /// As another program is told whom a token belongs to.
    #[must_use]
    pub fn view(&self, access_id: &str) -> v1::Principal {
        v1::Principal {
            name: self.name.clone(),
            role: self.role.into(),
            projects: self.projects.clone(),
            scopes: self.scopes.names(),
            session: self.session.map(|id| id.to_string()).unwrap_or_default(),
            expires_at: *self.expires_at.borrow(),
            access_id: access_id.to_owned(),
        }
    }
}

/// A time that does not move.
pub(super) fn at(time: Option<Timestamp>) -> watch::Receiver<Option<Timestamp>> {
    watch::Sender::new(time).subscribe()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, role: Role, projects: &[&str], scopes: &[&str]) -> Principal {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let scopes = Scopes::parse(&owned(scopes)).expect("scopes");
        Principal { name: name.into(), role, projects: owned(projects), scopes, ..Principal::local() }
    }

    #[test]
    fn a_gateway_and_whom_it_speaks_for_may_what_both_may() {
        let gateway = named("gw", Role::Orchestrator, &["a", "b"], &["read", "write"]);
        let ann = named("ann", Role::Viewer, &["b", "c"], &[]);
        let both = gateway.clone().speaking_for(ann).expect("b is in both");
        assert_eq!(both.caller(), "gw/ann");
        assert_eq!(both.reach("/muster.v1.SessionService/GetSession"), Reach::Own);
        assert_eq!(both.reach("/muster.v1.SessionService/StopSession"), Reach::Nothing);
        assert_eq!(both.scopes().names(), ["read", "write"]);
        let scope = both.scope();
        assert!(scope.has_project("b") && !scope.has_project("a") && !scope.has_project("c"));
        let far = named("far", Role::Admin, &["z"], &[]);
        assert_eq!(gateway.clone().speaking_for(far).expect_err("nothing"), Disjoint::Projects);
        let trust = named("t", Role::Admin, &[], &["trust"]);
        assert_eq!(gateway.speaking_for(trust).expect_err("nothing"), Disjoint::Scopes);
        let admin = named("root", Role::Admin, &[], &[]);
        let behind = admin.speaking_for(named("ann", Role::Operator, &[], &["read"])).expect("read");
        assert_eq!(behind.caller(), "ann");
        assert_eq!(behind.lacks("/muster.v1.SessionService/StopSession"), Some("write"));
        assert_eq!(behind.lacks("/muster.v1.SessionService/GetSession"), None);
        assert_eq!(behind.reach("/muster.v1.IdentityService/CreateAccess"), Reach::Nothing);
    }

    #[test]
    fn scopes_are_read_as_they_are_documented() {
        assert_eq!(Scopes::parse(&[]), Some(Scopes::ALL));
        assert_eq!(Scopes::parse(&["read".into(), "root".into()]), None);
        assert!(Scopes::ALL.names().is_empty());
    }
}
