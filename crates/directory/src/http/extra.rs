//! What somebody adds to a directory in his own process, like the demo: paths below `/demo/`, and a script and a
//! style that the page loads with its own.
//!
//! Not there in production: without an [`Extra`] these paths name nothing, and the page is byte for byte its own.
//!
//! Invariant: a button is pressed only from this machine, and by no other site's page in its browser.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::auth::Auth;
use super::page::{PAGE, made};
use super::reply::{Reply, TEXT, text, whole, wrong_method};
use super::route::{Right, Scope};

/// Where it all is.
const PREFIX: &str = "/demo/";
/// A script of another origin cannot send it without asking first, and it is answered no.
const HEADER: &str = "x-pikepole-demo";
/// What the page loads besides its own.
const TAGS: &str =
    "<link rel=\"stylesheet\" href=\"demo/demo.css\">\n<script src=\"demo/demo.js\" defer></script>\n";

/// What is added. Paths are those below `/demo/`; the page loads `demo.js` and `demo.css`.
pub trait Extra: Send + Sync + 'static {
    /// What is there: its content type, and what it is just now.
    fn get(&self, path: &str) -> Option<(&'static str, Bytes)>;
    /// A button was pressed. It does not wait.
    fn press(&self, path: &str) -> Pressed;
}

/// What became of a press.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressed {
    /// It is being done.
    Taken,
    /// Too many were pressed at once.
    Busy,
    /// There is no such button.
    Unknown,
}

/// The answer, if the path is one of these.
pub(super) fn answer(extra: &dyn Extra, auth: &Auth, peer: IpAddr, head: &Parts) -> Option<Reply> {
    let path = head.uri.path().strip_prefix(PREFIX)?;
    let is_press = head.method == Method::POST;
    let scope = if is_press { Scope::Write } else { Scope::Read };
    if let Err(error) = auth.check(Right::Token(scope), &head.headers) {
        return Some(error.into_reply());
    }
    if !is_press {
        let (content_type, body) = extra.get(path)?;
        let is_read = head.method == Method::GET || head.method == Method::HEAD;
        return Some(if is_read { made(content_type, body) } else { wrong_method("GET, HEAD") });
    }
    if !may_press(peer, &head.headers) {
        let words = Bytes::from_static(b"only the page itself may do this, in a browser on this machine\n");
        return Some(whole(StatusCode::FORBIDDEN, TEXT, words));
    }
    match extra.press(path) {
        Pressed::Taken => Some(text(StatusCode::ACCEPTED, "done\n")),
        Pressed::Busy => Some(text(StatusCode::TOO_MANY_REQUESTS, "one after the other, please\n")),
        Pressed::Unknown => None,
    }
}

/// A name could be made to lead here by whoever owns it; an address cannot.
fn may_press(peer: IpAddr, headers: &HeaderMap) -> bool {
    let get = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let Some(host) = get(HOST.as_str()) else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_ours = name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let is_same = get(ORIGIN.as_str()).is_none_or(|origin| origin == format!("http://{host}"));
    peer.to_canonical().is_loopback() && is_ours && is_same && headers.contains_key(HEADER)
}

/// The page with what it loads besides.
pub(super) fn page() -> Reply {
    made("text/html; charset=utf-8", PAGE.replacen("</head>", &format!("{TAGS}</head>"), 1).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;

    impl Extra for One {
        fn get(&self, path: &str) -> Option<(&'static str, Bytes)> {
            (path == "flows.json").then(|| ("application/json", "{}".into()))
        }

        fn press(&self, path: &str) -> Pressed {
            if path == "red" { Pressed::Taken } else { Pressed::Unknown }
        }
    }

    fn press(peer: &str, headers: &[(&'static str, &str)], path: &str) -> Option<u16> {
        let mut request = http::Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let auth = Auth { tokens: None, compat_anonymous: false };
        answer(&One, &auth, peer.parse().unwrap(), &head).map(|reply| reply.status().as_u16())
    }

    #[test]
    fn only_the_page_on_this_machine_presses_buttons() {
        let own = [("host", "127.0.0.1:8044"), ("x-pikepole-demo", "1"), ("origin", "http://127.0.0.1:8044")];
        assert_eq!(press("127.0.0.1", &own, "/demo/red"), Some(202));
        assert_eq!(press("127.0.0.1", &own[..2], "/demo/red"), Some(202), "curl");
        assert_eq!(press("127.0.0.1", &own, "/demo/blue"), None);
        assert_eq!(press("192.0.2.7", &own, "/demo/red"), Some(403), "another machine");
        assert_eq!(press("127.0.0.1", &own[..1], "/demo/red"), Some(403), "a form on another site");
        let foreign = [own[0], own[1], ("origin", "http://evil.example")];
        assert_eq!(press("127.0.0.1", &foreign, "/demo/red"), Some(403), "a script on another site");
        let rebound = [("host", "evil.example:8044"), own[1], ("origin", "http://evil.example:8044")];
        assert_eq!(press("127.0.0.1", &rebound, "/demo/red"), Some(403), "a name that leads here");
    }

    #[test]
    fn the_page_loads_what_is_added_once() {
        assert_eq!(PAGE.matches("demo").count(), 0, "nothing of it is there without");
        assert_eq!(PAGE.matches("</head>").count(), 1);
    }
}
