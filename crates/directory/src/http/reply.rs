//! Answers: the one file that maps errors to HTTP, and the few shapes a response has.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use pikepole_api::v1::{ErrorBody, ErrorCode, ErrorDetail};

use super::body::Body;

pub(super) type Reply = Response<Body>;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Headers that a roster carries, with room: growing on the way would allocate twice.
pub(super) const ROOM: usize = 10;

/// An error as a caller sees it.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    /// Seconds after which coming again is worth while.
    pub(super) retry_after: Option<u32>,
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    pub(super) fn bad_request(message: String) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub(super) fn unknown_fleet(name: &str) -> Self {
        let name: String = name.chars().take(128).collect();
        Self::new(
            ErrorCode::UnknownFleet,
            format!("there is no fleet called {name:?}; GET /v1/fleets lists them"),
        )
    }

    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    const fn status(&self) -> StatusCode {
        match self.code {
            ErrorCode::UnknownFleet => StatusCode::NOT_FOUND,
            ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::SourceFailed => StatusCode::BAD_GATEWAY,
            ErrorCode::NotReady | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The JSON error of `/v1`.
    pub(super) fn into_reply(self) -> Reply {
        let status = self.status();
        let retry_after = self.retry_after;
        let body = ErrorBody { error: ErrorDetail { code: self.code, message: self.message } };
        let mut reply = json(&body);
        *reply.status_mut() = status;
        if let Some(seconds) = retry_after {
            reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            // Basic, so that a browser asks for the password and can open the page.
            let basic = HeaderValue::from_static("Basic realm=\"pikepole\", charset=\"UTF-8\"");
            reply.headers_mut().append(WWW_AUTHENTICATE, basic);
            reply.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        reply
    }
}

/// A body that is already made.
pub(super) fn whole(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Reply {
    let mut reply = Response::new(Body::Whole(body));
    *reply.status_mut() = status;
    reply.headers_mut().reserve(ROOM);
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    whole(status, TEXT, body.into())
}

pub(super) fn json(value: &impl serde::Serialize) -> Reply {
    let body = serde_json::to_vec(value).expect("wire types are texts, numbers and lists");
    whole(StatusCode::OK, JSON, Bytes::from(body))
}

pub(super) fn no_such_path() -> Reply {
    let mut reply =
        ApiError::bad_request("there is nothing at this path; GET /openapi.json lists them".into())
            .into_reply();
    *reply.status_mut() = StatusCode::NOT_FOUND;
    reply
}

pub(super) fn wrong_method(allow: &'static str) -> Reply {
    let mut reply = ApiError::bad_request(format!("this path takes {allow}")).into_reply();
    *reply.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    reply
}
