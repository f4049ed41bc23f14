//! The page, and the description of the API: files that are part of the binary.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};

use super::reply::{JSON, Reply, whole};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page itself.
pub(super) const PAGE: &str = include_str!("../page/index.html");

fn asset(content_type: &'static str, body: &'static str) -> Reply {
    made(content_type, Bytes::from_static(body.as_bytes()))
}

/// Something that a browser gets, under the page's policy.
pub(super) fn made(content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = whole(StatusCode::OK, HeaderValue::from_static(content_type), body);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    reply
}

pub(super) fn page() -> Reply {
    asset("text/html; charset=utf-8", PAGE)
}

pub(super) fn script() -> Reply {
    asset("text/javascript; charset=utf-8", include_str!("../page/app.js"))
}

pub(super) fn lives() -> Reply {
    asset("text/javascript; charset=utf-8", include_str!("../page/lives.js"))
}

pub(super) fn style() -> Reply {
    asset("text/css; charset=utf-8", include_str!("../page/app.css"))
}

pub(super) fn icon() -> Reply {
    asset("image/svg+xml", include_str!("../page/favicon.svg"))
}

pub(super) fn openapi() -> Reply {
    whole(StatusCode::OK, JSON, Bytes::from_static(OPENAPI.as_bytes()))
}

/// The description of the API.
pub(super) const OPENAPI: &str = include_str!("openapi.json");
