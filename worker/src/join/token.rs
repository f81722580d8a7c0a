//! The line an operator carries from the controller to a machine that is to join:
//! `mustjoin_<id>_<secret>.<SHA-256 of the key of the farm's root>@<host>:<port>`.

use std::{fmt, str::FromStr};

/// Longest line taken, in bytes.
const LINE_BYTES: usize = 1024;
/// What it begins with.
const PREFIX: &str = "mustjoin_";

/// A join token, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// What is sent: without pin and address.
    pub(super) sent: String,
    /// SHA-256 of the key of the farm's root.
    pub(super) pin: [u8; 32],
    /// `host:port`.
    pub(super) address: String,
}

/// Its secret is not for logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id())
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A line that is no join token. Never quotes it: it may hold a secret all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the join token is not whole: {0}; copy the whole line that `muster token create` printed")]
pub struct TokenError(&'static str);

impl JoinToken {
    /// Its id, which is no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        self.sent.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map_or("", |(id, _)| id)
    }

    /// Where the farm is joined, `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(line: &str) -> Result<Self, TokenError> {
        let line = line.trim();
        if line.len() > LINE_BYTES || !line.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError("it is not one line of printable characters"));
        }
        let rest = line.strip_prefix(PREFIX).ok_or(TokenError("it does not begin with `mustjoin_`"))?;
        let (secret, rest) =
            rest.split_once('.').ok_or(TokenError("the hash of the farm's root is missing"))?;
        let (pin, address) = rest.split_once('@').ok_or(TokenError("the controller's address is missing"))?;
        if secret.split_once('_').is_none_or(|(id, secret)| id.is_empty() || secret.is_empty()) {
            return Err(TokenError("its id or its secret is missing"));
        }
        let pin = unhex(pin).ok_or(TokenError("the hash of the farm's root is not 64 hexadecimal digits"))?;
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if port.is_none_or(|port| port.parse::<u16>().is_err()) {
            return Err(TokenError("the controller's address is not host:port"));
        }
        Ok(Self { sent: format!("{PREFIX}{secret}"), pin, address: address.to_owned() })
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 64).then_some(bytes)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_apart_and_its_secret_not_shown() {
        let line = format!(" mustjoin_abc_s3cret.{}@[::1]:7421\n", "0f".repeat(32));
        let token: JoinToken = line.parse().expect("whole");
        assert_eq!((token.id(), token.address(), &*token.sent), ("abc", "[::1]:7421", "mustjoin_abc_s3cret"));
        assert_eq!(token.pin, [15; 32]);
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_quoted() {
        let pin = "0f".repeat(32);
        for (line, says) in [
            (String::new(), "mustjoin_"),
            ("mustjoin_abc_s3cret".to_owned(), "hash"),
            (format!("mustjoin_abc_s3cret.{pin}"), "address is missing"),
            (format!("mustjoin_abcs3cret.{pin}@h:1"), "secret is missing"),
            (format!("mustjoin_abc_s3cret.{}@h:1", &pin[1..]), "64 hexadecimal"),
            (format!("mustjoin_abc_s3cret.{pin}@h"), "host:port"),
            (format!("mustjoin_abc_s3cret.{pin}@h:70000"), "host:port"),
            (format!("mustjoin_abc_s3cret.{pin}@h:1 x"), "one line"),
        ] {
            let error = line.parse::<JoinToken>().expect_err(&line).to_string();
            assert!(error.contains(says) && !error.contains("s3cret"), "{line}: {error}");
        }
    }
}
