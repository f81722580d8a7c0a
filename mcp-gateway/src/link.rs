//! The way to the controller, and who the gateway is on it.
//!
//! Invariant: the gateway's own token never leaves this machine in the clear, and a caller's token is on no call
//! at all: whom a call is for is said in words (`muster-on-behalf-of-bin`).

use muster_proto::{metadata, v1::FILE_DESCRIPTOR_SET};
use muster_runtime::{
    grpc::{self, ConnectError, TraceInterceptor},
    metrics::rpc::{CallDuration, Measured, Methods},
    tls::{self, TlsError},
};
use tonic::{
    Request, Status,
    metadata::{Ascii, Binary, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use tower::Layer as _;

use crate::{Config, caller::Caller};

/// Every client of the gateway calls through this.
pub(crate) type Service = InterceptedService<Measured<Channel>, Identity>;

/// Why no way to the controller can be made. Never that the controller is away.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address is not one.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Its certificates cannot be used, or the address holds no `host:port`.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// `https://` without roots.
    #[error("{0} needs the farm's root certificate (or the hash of its key) to be told from any other")]
    NoTrust(String),
    /// A token for another machine, and no TLS.
    #[error("an access token is not sent to {0} without TLS: use its https:// address")]
    InTheClear(String),
    /// No header can hold it.
    #[error("the gateway's access token holds characters that no token has")]
    Token,
}

/// What every call carries: the trace it belongs to, who the gateway is, and for whom it calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    /// `Bearer ...`; marked sensitive, so that it is in no debug output.
    authorization: Option<MetadataValue<Ascii>>,
    on_behalf_of: Option<MetadataValue<Binary>>,
}

impl Interceptor for Identity {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut request = TraceInterceptor.call(request)?;
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(principal) = &self.on_behalf_of {
            request.metadata_mut().insert_bin(metadata::ON_BEHALF_OF, principal.clone());
        }
        Ok(request)
    }
}

/// A lazy connection. Cheap to clone; all clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    channel: Channel,
    measure: CallDuration,
    identity: Identity,
}

impl Link {
    pub(crate) fn new(config: &Config) -> Result<Self, LinkError> {
        let uri = &config.controller;
        let channel = match (uri.strip_prefix("https://"), &config.trust) {
            (Some(address), Some(trust)) => tls::connect(address.trim_end_matches('/'), trust.clone(), None)?,
            (Some(_), None) => return Err(LinkError::NoTrust(uri.clone())),
            (None, _) => grpc::connect(uri)?,
        };
        let authorization = match &config.token {
            Some(_) if !uri.starts_with("https://") && !is_loopback(uri) => {
                return Err(LinkError::InTheClear(uri.clone()));
            }
            Some(token) => {
                let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose()))
                    .map_err(|_| LinkError::Token)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let measure = CallDuration::client(Methods::of_descriptors(FILE_DESCRIPTOR_SET));
        Ok(Self { channel, measure, identity: Identity { authorization, on_behalf_of: None } })
    }

    /// The same way, for `caller`.
    pub(crate) fn on_behalf_of(&self, caller: &Caller) -> Self {
        let mut link = self.clone();
        link.identity.on_behalf_of = caller.encoded().map(MetadataValue::from_bytes);
        link
    }

    pub(crate) fn service(&self) -> Service {
        InterceptedService::new(self.measure.layer(self.channel.clone()), self.identity.clone())
    }
}

fn is_loopback(uri: &str) -> bool {
    let host =
        uri.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    #[tokio::test]
    async fn a_token_is_not_sent_in_the_clear_and_https_needs_roots() {
        let with = |uri: &str, token: &str| {
            let mut config = Config::new(uri);
            config.token = Some(Secret::new(token));
            Link::new(&config).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(with("http://127.0.0.1:1", "t"), Ok(()));
        assert_eq!(with("http://[::1]:1", "t"), Ok(()));
        for (uri, token, part) in [
            ("http://farm.example:1", "t", "without TLS"),
            ("http://127.0.0.1.evil.example:1", "t", "without TLS"),
            ("https://farm.example:1", "t", "root certificate"),
            ("http://127.0.0.1:1", "a\nb", "characters"),
        ] {
            let error = with(uri, token).expect_err(uri);
            assert!(error.contains(part) && !error.contains("a\nb"), "{error}");
        }
        let mut config = Config::new("http://127.0.0.1:1");
        config.token = Some(Secret::new("mustsecret"));
        let shown = format!("{config:?} {:?}", Link::new(&config).expect("a link"));
        assert!(!shown.contains("mustsecret"), "{shown}");
    }
}
