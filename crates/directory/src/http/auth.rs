//! Who may do what: two tokens, compared in constant time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use pikepole_api::v1::ErrorCode;
use subtle::ConstantTimeEq;

use super::reply::ApiError;
use super::route::{Right, Scope};
use crate::config::Tokens;

/// The rules of one server.
#[derive(Debug)]
pub(super) struct Auth {
    pub(super) tokens: Option<Tokens>,
    pub(super) compat_anonymous: bool,
}

impl Auth {
    pub(super) fn check(&self, right: Right, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let needed = match right {
            Right::Anyone => return Ok(()),
            Right::Seed(_) if self.compat_anonymous => return Ok(()),
            Right::Seed(scope) | Right::Token(scope) => scope,
        };
        let Some(token) = presented(headers) else {
            return Err(unauthorized("a token is required: send Authorization: Bearer TOKEN"));
        };
        let is = |secret: &str| bool::from(token.as_bytes().ct_eq(secret.as_bytes()));
        let (may_write, may_read) = (is(tokens.write.expose()), is(tokens.read.expose()));
        match needed {
            _ if may_write => Ok(()),
            Scope::Read if may_read => Ok(()),
            Scope::Write if may_read => {
                Err(ApiError::new(ErrorCode::Forbidden, "this needs the write token; yours is for reading"))
            }
            Scope::Read | Scope::Write => Err(unauthorized("this token is not known here")),
        }
    }
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, message)
}

/// The token of `Bearer`, or the password of `Basic`.
fn presented(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_string());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        return pair.split_once(':').map(|(_, password)| password.to_string());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn check(header: Option<&str>, right: Right) -> Result<(), ErrorCode> {
        let tokens = Tokens { read: Secret::new("read-token"), write: Secret::new("write-token") };
        let auth = Auth { tokens: Some(tokens), compat_anonymous: true };
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        auth.check(right, &headers).map_err(|e| e.code)
    }

    #[test]
    fn write_includes_read_and_read_does_not_include_write() {
        let (read, write) = (Right::Token(Scope::Read), Right::Token(Scope::Write));
        assert_eq!(check(Some("Bearer read-token"), read), Ok(()));
        assert_eq!(check(Some("bearer write-token"), read), Ok(()));
        assert_eq!(check(Some("Bearer write-token"), write), Ok(()));
        assert_eq!(check(Some("Bearer read-token"), write), Err(ErrorCode::Forbidden));
        assert_eq!(check(Some("Bearer nope"), read), Err(ErrorCode::Unauthorized));
        assert_eq!(check(None, read), Err(ErrorCode::Unauthorized));
        assert_eq!(check(Some("Basic !!"), read), Err(ErrorCode::Unauthorized));
    }

    #[test]
    fn a_browser_sends_the_token_as_a_password() {
        let basic = format!("Basic {}", STANDARD.encode("anyone:read-token"));
        assert_eq!(check(Some(&basic), Right::Token(Scope::Read)), Ok(()));
    }

    #[test]
    fn the_seeds_routes_may_be_open() {
        assert_eq!(check(None, Right::Seed(Scope::Write)), Ok(()));
        assert_eq!(check(None, Right::Anyone), Ok(()));
    }
}
