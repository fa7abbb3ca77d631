//! Failures as answers: `application/problem+json`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use stipend_core::{Code, api::Problem};

/// A problem as an answer.
#[derive(Debug)]
pub(super) struct Refusal(Box<Problem>);

impl Refusal {
    /// A refusal with this code.
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    /// The caller may try again after this many seconds.
    pub(super) fn after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    /// The problem.
    pub(super) fn into_problem(self) -> Problem {
        *self.0
    }

    #[cfg(test)]
    pub(super) fn problem(&self) -> &Problem {
        &self.0
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (code, retry_after) = (self.0.code, self.0.retry_after);
        let mut response = (status, Json(self.0)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if code == Code::Unauthenticated {
            // RFC 9110, section 11.6.1: a 401 names a scheme.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("ERC-8128"));
        }
        response
    }
}

/// The answer to a path that is none of ours.
pub(super) async fn not_found() -> Refusal {
    Refusal::new(Code::NotFound, "there is nothing at this path")
}

/// The answer to a method that a path does not take.
pub(super) async fn method_not_allowed() -> Refusal {
    Refusal::new(Code::MethodNotAllowed, "this path does not take this method")
}
