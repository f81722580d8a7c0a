//! Looks at the body of a request before anything else does: how long it is, and whether it is one message.
//!
//! Invariant: no request costs more memory than the bound of its body, and one that is no message gets an
//! answer that says so.

use std::{collections::HashSet, fmt, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use tokio::time::timeout;

/// Largest request. A prompt of 2 MiB is less than that in sensible encodings.
pub(crate) const BODY_BYTES: usize = 4 << 20;

/// How long a request may take to arrive. 4 MiB on a line of half a megabit.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;

/// Middleware for the MCP route.
pub(crate) async fn check_body(request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let too_long =
        length.and_then(|length| length.parse::<usize>().ok()).is_some_and(|length| length > BODY_BYTES);
    let (parts, body) = request.into_parts();
    let read = async { if too_long { None } else { to_bytes(body, BODY_BYTES).await.ok() } };
    let Ok(read) = timeout(BODY_TIMEOUT, read).await else {
        let message = format!("the request did not arrive within {} s", BODY_TIMEOUT.as_secs());
        let mut response = refusal(StatusCode::REQUEST_TIMEOUT, INVALID_REQUEST, &message);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    let Some(body) = read else {
        let message = format!("the request is longer than {} MiB", BODY_BYTES >> 20);
        let mut response = refusal(StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, &message);
        // What is still on its way is not read.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    match check(&body) {
        Ok(()) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err((code, message)) => refusal(StatusCode::BAD_REQUEST, code, &message),
    }
}

/// An answer that is a JSON-RPC error to no request in particular.
pub(crate) fn refusal(status: StatusCode, code: i32, message: &str) -> Response {
    let error = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code, "message": message } });
    let mut response = Response::new(Body::from(error.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whether `body` is one JSON object in which no name stands twice.
fn check(body: &[u8]) -> Result<(), (i32, String)> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        let message = "batches are no part of the protocol: send one message in a request";
        return Err((INVALID_REQUEST, message.to_owned()));
    }
    match serde_json::from_slice::<Plain>(body) {
        Ok(Plain::Object) => Ok(()),
        Ok(Plain::Other) => Err((INVALID_REQUEST, "a message is a JSON object".to_owned())),
        Err(error) => Err((PARSE_ERROR, format!("the request cannot be read: {error}"))),
    }
}

/// JSON whose objects have no name twice; nothing of it is kept.
enum Plain {
    Object,
    Other,
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plain, A::Error> {
        let mut names: HashSet<String> = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                let name: String = name.chars().take(40).collect();
                return Err(A::Error::custom(format!("{name:?} stands twice in an object")));
            }
            names.insert(name);
            map.next_value::<Plain>()?;
        }
        Ok(Plain::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Plain, A::Error> {
        while items.next_element::<Plain>()?.is_some() {}
        Ok(Plain::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Plain, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Plain::Other)
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Bytes, middleware, routing::post};
    use futures::stream;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
        let router = Router::new().route("/", post(|| async { "ok" })).layer(middleware::from_fn(check_body));
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let request = Request::post("/").body(body).expect("a request");
        let response = router.oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[test]
    fn one_object_without_double_names_passes_and_all_else_is_named() {
        assert_eq!(check(br#" {"a": [1, -1, 1.5, true, null, "x", {"a": {}}]} "#), Ok(()));
        for (body, code, part) in [
            ("", PARSE_ERROR, "cannot be read"),
            ("{", PARSE_ERROR, "EOF"),
            ("\u{1}", PARSE_ERROR, "expected value"),
            ("{} {}", PARSE_ERROR, "trailing"),
            (" [{}]", INVALID_REQUEST, "batches"),
            ("7", INVALID_REQUEST, "JSON object"),
            (r#"{"a": 1, "b": {"c": 1, "c": 2}}"#, PARSE_ERROR, "\"c\" stands twice"),
        ] {
            let (found, message) = check(body.as_bytes()).expect_err(body);
            assert!(found == code && message.contains(part), "{body}: {found} {message}");
        }
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let (_, message) = check(deep.as_bytes()).expect_err("too deep");
        assert!(message.contains("recursion limit"), "{message}");
    }
}
