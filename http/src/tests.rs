use axum::{body::Body, http::StatusCode, response::IntoResponse, routing::get};
use tower::ServiceExt;

use super::*;

fn app() -> Router {
    let routes = Router::new()
        .route("/", get(async || "here"))
        .route("/slow", get(async || sleep(Duration::from_secs(60)).await))
        .route("/panic", get(async || panic!("a defect") as ()));
    observed(routes, Duration::from_millis(20), |failure| match failure {
        Failure::Panicked => (StatusCode::INTERNAL_SERVER_ERROR, "panicked").into_response(),
        Failure::TimedOut => (StatusCode::SERVICE_UNAVAILABLE, "timed out").into_response(),
    })
}

async fn call(path: &str, request_id: Option<&[u8]>) -> Response {
    let mut request = Request::get(path);
    if let Some(id) = request_id {
        request = request.header(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
    }
    app().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_short_printable_request_id_is_echoed_and_no_other() {
    let echoed = async |id: Option<&[u8]>| call("/", id).await.headers()[REQUEST_ID].as_bytes().to_vec();
    assert_eq!(echoed(Some(b"task 7/b")).await, b"task 7/b");
    assert_eq!(echoed(Some(&[b'x'; 64])).await, [b'x'; 64]);
    for bytes in [&b""[..], &[b'x'; 65], b"a\tb", "naïve".as_bytes()] {
        let id = echoed(Some(bytes)).await;
        assert_eq!((id.len(), id.iter().filter(|byte| **byte == b'-').count()), (36, 4), "{bytes:?}");
    }
    assert_ne!(echoed(None).await, echoed(None).await);
}

#[tokio::test]
async fn a_panic_or_a_slow_handler_is_answered_with_a_request_id() {
    for (path, status, words) in [("/panic", 500, "panicked"), ("/slow", 503, "timed out"), ("/none", 404, "")] {
        let response = call(path, Some(b"mine")).await;
        assert_eq!((response.status().as_u16(), response.headers()[REQUEST_ID].as_bytes()), (status, &b"mine"[..]));
        let body = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
        assert_eq!(body, words);
    }
}
