//! Who a request comes from, and what that one may ask for.
//!
//! Over stdio and on an address without authentication everybody is the gateway itself. Else a caller is a
//! principal, and every call towards the controller names it. Invariant: where callers are told apart, a request
//! without one is refused, never served as the gateway's own.

use std::{fmt, sync::Arc, time::SystemTime};

use muster_proto::v1::Principal;
use prost::Message as _;
use rmcp::{ErrorData, model::Extensions};

use crate::auth::Gate;

/// What a token allows, as OAuth scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// See sessions.
    Read,
    /// Spawn, answer, stop.
    Write,
    /// Ask for trust mode.
    Trust,
}

impl Scope {
    pub(crate) const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Trust];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Trust => "trust",
        }
    }
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// The gateway, for itself.
    Itself,
    /// Somebody it speaks for.
    Somebody(Arc<Somebody>),
}

/// A principal, and what the gateway keeps of it.
pub(crate) struct Somebody {
    pub(crate) principal: Principal,
    encoded: Vec<u8>,
    /// Shared by all tokens of one name.
    pub(crate) gate: Arc<Gate>,
}

impl fmt::Debug for Somebody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Somebody").field(&self.principal.name).finish()
    }
}

impl Somebody {
    pub(crate) fn new(principal: Principal, gate: Arc<Gate>) -> Self {
        let encoded = principal.encode_to_vec();
        Self { principal, encoded, gate }
    }
}

impl Caller {
    /// Of a request; `told_apart`: callers are authenticated here, so there must be one.
    pub(crate) fn of(extensions: &Extensions, told_apart: bool) -> Result<Self, ErrorData> {
        if !told_apart {
            return Ok(Self::Itself);
        }
        extensions
            .get::<http::request::Parts>()
            .and_then(|parts| parts.extensions.get::<Self>())
            .cloned()
            .ok_or_else(|| ErrorData::invalid_request("nobody is known to make this request", None))
    }

    /// As the controller is told; nothing for the gateway itself.
    pub(crate) fn encoded(&self) -> Option<&[u8]> {
        match self {
            Self::Itself => None,
            Self::Somebody(somebody) => Some(&somebody.encoded),
        }
    }

    /// For limits and for what belongs to somebody; empty for the gateway itself.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Itself => "",
            Self::Somebody(somebody) => &somebody.principal.name,
        }
    }

    /// No scope named means all: what the role allows is the controller's to say.
    pub(crate) fn has(&self, scope: Scope) -> bool {
        match self {
            Self::Itself => true,
            Self::Somebody(somebody) => {
                let scopes = &somebody.principal.scopes;
                scopes.is_empty() || scopes.iter().any(|given| given == scope.name())
            }
        }
    }

    /// When its token ends.
    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        let Self::Somebody(somebody) = self else { return None };
        let at = somebody.principal.expires_at.as_ref()?;
        let seconds = u64::try_from(at.seconds).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_narrow_and_none_named_means_all() {
        let with = |scopes: &[&str]| {
            let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            let principal = Principal { name: "ada".into(), scopes, ..Principal::default() };
            Caller::Somebody(Arc::new(Somebody::new(principal, Arc::default())))
        };
        for scope in Scope::ALL {
            assert!(with(&[]).has(scope) && Caller::Itself.has(scope));
            assert!(with(&[scope.name()]).has(scope));
        }
        assert!(!with(&["read"]).has(Scope::Write) && !with(&["read", "write"]).has(Scope::Trust));
        assert!(Caller::of(&Extensions::new(), true).is_err(), "nobody is not the gateway");
        assert!(matches!(Caller::of(&Extensions::new(), false), Ok(Caller::Itself)));
    }
}
