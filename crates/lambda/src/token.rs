//! The token that directories want to see, and where it is kept between invocations.
//!
//! A secret is read through the Lambda extension of Secrets Manager, which keeps a cache of its own:
//! `SECRETS_MANAGER_TTL` says for how long, and with it how long a rotation may go unnoticed.
//!
//! Invariant: the token is in a header that is marked sensitive and nowhere else; no error quotes what
//! the extension answered.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::{TokenSource, bearer};
use crate::forward::HttpClient;

/// A token that still works is asked for again after this.
const KEEP: Duration = Duration::from_secs(300);
/// For one look; the extension itself asks Secrets Manager at most once in its own interval.
const FETCH_TIME: Duration = Duration::from_secs(2);
/// Secrets Manager's own limit is 64 KiB; the answer has some names around it.
const MAX_ANSWER: usize = 160 * 1024;

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the extension of Secrets Manager does not answer; is its layer part of the function?")]
    Unreachable,
    #[error("the extension of Secrets Manager answered {0}; may the function's role read the secret?")]
    Refused(u16),
    #[error("the secret is neither a token nor JSON with the key \"token\"")]
    NotAToken,
}

/// The token as it is now.
#[derive(Debug)]
pub(crate) struct Token {
    source: Option<TokenSource>,
    client: HttpClient,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    header: HeaderValue,
    since: Instant,
}

impl Token {
    pub(crate) fn new(source: Option<TokenSource>) -> Self {
        Self { source, client: crate::forward::plain_client(), kept: Mutex::new(None) }
    }

    /// The header to send. A secret that cannot be read now does not end the use of the one read before.
    pub(crate) async fn header(&self) -> Result<Option<HeaderValue>, TokenError> {
        let (secret, session) = match &self.source {
            None => return Ok(None),
            Some(TokenSource::Given(header)) => return Ok(Some(header.clone())),
            Some(TokenSource::Secret { secret, session }) => (secret, session),
        };
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|k| k.since.elapsed() < KEEP) {
            return Ok(Some(kept.header.clone()));
        }
        match (self.fetch(secret, session).await, kept.as_ref()) {
            (Ok(header), _) => {
                *kept = Some(Kept { header: header.clone(), since: Instant::now() });
                Ok(Some(header))
            }
            (Err(error), Some(old)) => {
                tracing::warn!(%error, "the secret cannot be read: its last value is used");
                Ok(Some(old.header.clone()))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// After a 401: what the secret holds now, if that is another token than the refused one.
    pub(crate) async fn renewed(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        let Some(TokenSource::Secret { secret, session }) = &self.source else { return None };
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|k| k.header != refused) {
            return Some(kept.header.clone());
        }
        let header = match self.fetch(secret, session).await {
            Ok(header) => header,
            Err(error) => {
                tracing::warn!(%error, "the token was refused and the secret cannot be read again");
                return None;
            }
        };
        *kept = Some(Kept { header: header.clone(), since: Instant::now() });
        (header != refused).then_some(header)
    }

    async fn fetch(&self, secret: &http::Uri, session: &HeaderValue) -> Result<HeaderValue, TokenError> {
        let request = Request::get(secret)
            .header("X-Aws-Parameters-Secrets-Token", session)
            .body(Full::<Bytes>::default())
            .map_err(|_| TokenError::Unreachable)?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|_| TokenError::Unreachable)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            if !status.is_success() {
                return Err(TokenError::Refused(status.as_u16()));
            }
            Ok(body.map_err(|_| TokenError::NotAToken)?.to_bytes())
        };
        let answer =
            tokio::time::timeout(FETCH_TIME, answer).await.map_err(|_| TokenError::Unreachable)??;
        header_of(&answer).ok_or(TokenError::NotAToken)
    }
}

/// The header made of an answer of the extension.
fn header_of(answer: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        secret_string: String,
    }
    #[derive(Deserialize)]
    struct Object {
        token: String,
    }
    let secret = serde_json::from_slice::<Answer>(answer).ok()?.secret_string;
    let secret = secret.trim();
    if secret.starts_with('{') {
        return bearer(serde_json::from_str::<Object>(secret).ok()?.token.trim());
    }
    bearer(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(secret: &str) -> Option<String> {
        let answer = serde_json::json!({ "ARN": "arn", "Name": "n", "SecretString": secret }).to_string();
        header_of(answer.as_bytes()).map(|h| h.to_str().unwrap().to_string())
    }

    #[test]
    fn a_secret_is_a_token_or_an_object_with_one() {
        assert_eq!(of("abc-123\n").as_deref(), Some("Bearer abc-123"));
        assert_eq!(of(r#"{"token": "abc-123", "user": "x"}"#).as_deref(), Some("Bearer abc-123"));
        for wrong in ["", "{}", "{\"token\": 7}", "two words", "line\nbreak", "{\"token\": \"\"}"] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert!(header_of(b"not ready to serve traffic, please wait").is_none());
    }

    #[test]
    fn no_debug_output_shows_it() {
        let header = bearer("s3cret").unwrap();
        let kept = Kept { header: header.clone(), since: Instant::now() };
        let given = Token::new(Some(TokenSource::Given(header)));
        assert!(!format!("{kept:?} {given:?}").contains("s3cret"));
    }
}
