//! The outermost layer: every answer has a request id, comes in bounded time, and comes even if a
//! handler panics.

use std::panic::AssertUnwindSafe;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use stipend_core::Code;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{RESPONSE_TIMEOUT, extract, problem::Refusal};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id of a client's own that is kept.
const REQUEST_ID_MAX: usize = 64;

pub(super) async fn observe(request: Request, next: Next) -> Response {
    let id = request_id(request.headers().get(REQUEST_ID));
    let method = request.method().clone();
    // The route, not the path: a path can hold anything that a client cares to send.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let started = Instant::now();

    let mut response = match timeout(RESPONSE_TIMEOUT, AssertUnwindSafe(next.run(request)).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => {
            tracing::error!(%method, route, request_id = ?id, "a handler panicked");
            Refusal::new(Code::Internal, "this call met a defect of the relayer").into_response()
        }
        Err(_elapsed) => {
            tracing::warn!(%method, route, request_id = ?id, "a handler took too long");
            Refusal::new(Code::Unavailable, "the relayer did not answer in time").into_response()
        }
    };
    tracing::debug!(%method, route, status = response.status().as_u16(), elapsed = ?started.elapsed(), request_id = ?id);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The client's own id if it can be echoed safely, else a new one.
fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    let usable = |id: &&HeaderValue| (1..=REQUEST_ID_MAX).contains(&id.len()) && extract::is_printable(id.as_bytes());
    given.filter(usable).cloned().unwrap_or_else(|| {
        HeaderValue::try_from(Uuid::now_v7().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_printable_request_id_is_echoed_and_no_other() {
        let given = |bytes: &[u8]| request_id(Some(&HeaderValue::from_bytes(bytes).unwrap()));
        assert_eq!(given(b"task 7/b"), "task 7/b");
        assert_eq!(given(&[b'x'; 64]), HeaderValue::from_bytes(&[b'x'; 64]).unwrap());
        for bytes in [&b""[..], &[b'x'; 65], b"a\tb", "naïve".as_bytes()] {
            let id = given(bytes);
            assert_eq!(Uuid::parse_str(id.to_str().unwrap()).unwrap().get_version_num(), 7, "{bytes:?}");
        }
        assert_ne!(request_id(None), request_id(None));
    }
}
