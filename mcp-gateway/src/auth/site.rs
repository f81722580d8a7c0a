//! Under which address the gateway is known, and what it says of itself as an OAuth 2.1 resource server (RFC 9728).

use axum::http::HeaderValue;
use serde_json::{Value, json};

use crate::caller::Scope;

/// Where the document about the resource lies; the path of the resource follows (RFC 9728, 3.1).
pub(crate) const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Why a request is refused.
#[derive(Debug, Clone, Copy)]
pub(super) enum Challenge<'a> {
    /// It brought no token.
    None,
    /// It brought one that gives nothing.
    InvalidToken(&'a str),
    /// It brought one that does not reach so far.
    InsufficientScope(Scope),
}

/// How clients know this gateway.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// `https://farm.example/mcp`: what tokens are made for.
    resource: String,
    /// Where the document about it is.
    document: String,
    issuer: Option<String>,
}

impl Site {
    /// `resource`: an absolute URL.
    pub(crate) fn new(resource: &str, issuer: Option<&str>) -> Self {
        let resource = resource.trim_end_matches('/');
        let rest = resource.find("://").map_or(0, |scheme| scheme + 3);
        let path = resource[rest..].find('/').map_or(resource.len(), |path| rest + path);
        let (origin, path) = resource.split_at(path);
        Self {
            resource: resource.to_owned(),
            document: format!("{origin}{WELL_KNOWN}{path}"),
            issuer: issuer.map(ToOwned::to_owned),
        }
    }

    pub(crate) fn resource(&self) -> &str {
        &self.resource
    }

    /// The document itself.
    pub(crate) fn about(&self) -> Value {
        let mut about = json!({
            "resource": self.resource,
            "resource_name": "muster",
            "scopes_supported": Scope::ALL.map(Scope::name),
            "bearer_methods_supported": ["header"],
        });
        if let Some(issuer) = &self.issuer {
            about["authorization_servers"] = json!([issuer]);
        }
        about
    }

    /// `WWW-Authenticate` of a refusal (RFC 6750, 3; RFC 9728, 5.1).
    pub(super) fn challenge(&self, why: Challenge<'_>) -> HeaderValue {
        let (error, scope) = match why {
            Challenge::None => (String::new(), "read write".to_owned()),
            Challenge::InvalidToken(text) => (
                format!(", error=\"invalid_token\", error_description=\"{}\"", quotable(text)),
                "read write".to_owned(),
            ),
            // What it needs in all: clients ask for this set next.
            Challenge::InsufficientScope(Scope::Read) => insufficient("read"),
            Challenge::InsufficientScope(Scope::Write) => insufficient("read write"),
            Challenge::InsufficientScope(Scope::Trust) => insufficient("read write trust"),
        };
        let text = format!(
            "Bearer realm=\"muster\", resource_metadata=\"{}\", scope=\"{scope}\"{error}",
            quotable(&self.document)
        );
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Bearer realm=\"muster\""))
    }
}

fn insufficient(scope: &str) -> (String, String) {
    (", error=\"insufficient_scope\"".to_owned(), scope.to_owned())
}

fn quotable(text: &str) -> String {
    text.chars().filter(|c| (c.is_ascii_graphic() || *c == ' ') && !matches!(c, '"' | '\\')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lies_where_the_standard_says() {
        for (resource, document) in [
            ("https://farm.example/mcp", "https://farm.example/.well-known/oauth-protected-resource/mcp"),
            ("https://farm.example/mcp/", "https://farm.example/.well-known/oauth-protected-resource/mcp"),
            ("http://127.0.0.1:7421", "http://127.0.0.1:7421/.well-known/oauth-protected-resource"),
        ] {
            let site = Site::new(resource, None);
            assert_eq!(site.document, document);
            assert!(site.about().get("authorization_servers").is_none());
        }
        let site = Site::new("https://farm.example/mcp", Some("https://login.example"));
        assert_eq!(site.about()["authorization_servers"], json!(["https://login.example"]));
        let challenge = site.challenge(Challenge::InvalidToken("it \"is\"\r\nbad"));
        assert!(
            challenge.to_str().expect("ASCII").ends_with("error_description=\"it isbad\""),
            "{challenge:?}"
        );
    }
}
