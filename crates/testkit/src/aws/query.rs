//! The Query protocol: form parameters in, XML out, pages in between.
//!
//! Not an XML library: it writes what the two services write, and escapes text.
//!
//! Invariant: a page token says where the page starts and the how-manieth of its walk it is.

use std::fmt::Write;
use std::ops::Range;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;

/// The parameters of one request, in their order.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The values of `PREFIX1`, `PREFIX2`, …
    pub(super) fn list(&self, prefix: &str) -> Vec<&str> {
        let numbered = |name: &str| name.strip_prefix(prefix).is_some_and(|n| n.parse::<u32>().is_ok());
        self.0.iter().filter(|(n, _)| numbered(n)).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.get(name).and_then(|n| n.parse().ok())
    }
}

/// One answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn xml(body: String) -> Self {
        Self { status: 200, body: Bytes::from(body) }
    }

    /// The first half of the body, as a complete message.
    pub(super) fn first_half(mut self) -> Self {
        self.body.truncate(self.body.len() / 2);
        self
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        Response::builder()
            .status(self.status)
            .header(http::header::CONTENT_TYPE, "text/xml;charset=UTF-8")
            .body(Full::new(self.body))
            .expect("the parts of this answer are valid HTTP")
    }
}

/// An error as both services write it, near enough: Auto Scaling's root, EC2's elements.
pub(super) fn error(status: u16, code: &str, message: &str) -> Reply {
    let ec2 = matches!(code, "RequestLimitExceeded" | "UnauthorizedOperation" | "Unavailable");
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let body = if ec2 {
        format!(
            "<?xml version=\"1.0\"?>\n<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"
        )
    } else {
        format!("<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>")
    };
    Reply { status, body: Bytes::from(body) }
}

/// Which page of its walk a request asks for, counted from 1.
pub(super) fn page_of(params: &Params) -> usize {
    params.get("NextToken").and_then(read_token).map_or(1, |(page, _)| page)
}

fn read_token(token: &str) -> Option<(usize, usize)> {
    let (page, start) = token.strip_prefix("page-")?.split_once('-')?;
    Some((page.parse().ok()?, start.parse().ok()?))
}

/// The slice of `total` items a request asks for, and the token of the next one.
pub(super) fn page(params: &Params, total: usize, size: usize) -> (Range<usize>, Option<String>) {
    let (page, start) = params.get("NextToken").and_then(read_token).unwrap_or((1, 0));
    let start = start.min(total);
    let end = start.saturating_add(size.max(1)).min(total);
    (start..end, (end < total).then(|| format!("page-{}-{end}", page + 1)))
}

/// `<name>text</name>`, escaped.
pub(super) fn element(out: &mut String, name: &str, text: &str) {
    write!(out, "<{name}>").expect("a String takes everything");
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            c => out.push(c),
        }
    }
    write!(out, "</{name}>").expect("a String takes everything");
}
