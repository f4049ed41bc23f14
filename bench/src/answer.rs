//! Reads an HTTP/1.1 answer as little as a watcher must: status, length, revision. Bytes in, no I/O.
//!
//! Not a general parser: it reads the answers of the directory, which always have a `Content-Length`
//! or no body at all.

/// More than any head the directory sends.
const MAX_HEAD: usize = 16 * 1024;

/// What a watcher knows of an answer once its head is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// The status code.
    pub(crate) status: u16,
    /// Bytes of the head, with the empty line.
    pub(crate) size: usize,
    /// Bytes of the body.
    pub(crate) body: usize,
    /// `Pikepole-Revision`.
    pub(crate) revision: Option<u64>,
}

/// Why bytes are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoAnswer;

/// The head at the start of these bytes. `Ok(None)`: more bytes are needed.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<Head>, NoAnswer> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if bytes.len() < MAX_HEAD { Ok(None) } else { Err(NoAnswer) };
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| NoAnswer)?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or(NoAnswer)?;
    let status = status.get(..3).and_then(|s| s.parse().ok()).ok_or(NoAnswer)?;
    let mut head = Head { status, size: end + 4, body: 0, revision: None };
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().map_err(|_| NoAnswer)?);
        } else if name.eq_ignore_ascii_case("pikepole-revision") {
            head.revision = Some(value.parse().map_err(|_| NoAnswer)?);
        }
    }
    let has_body = !matches!(status, 100..200 | 204 | 304);
    head.body = if has_body { length.ok_or(NoAnswer)? } else { 0 };
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let bytes = b"HTTP/1.1 200 OK\r\npikepole-revision: 7\r\nContent-Length: 2\r\n\r\n[]";
        for cut in 0..bytes.len() - 2 {
            assert_eq!(head(&bytes[..cut]), Ok(None), "{cut}");
        }
        let whole = Head { status: 200, size: bytes.len() - 2, body: 2, revision: Some(7) };
        assert_eq!(head(bytes), Ok(Some(whole)));
    }

    #[test]
    fn not_modified_has_no_body_and_anything_else_a_length() {
        let head = |text: &str| head(text.as_bytes());
        assert_eq!(head("HTTP/1.1 304 Not Modified\r\n\r\n").unwrap().unwrap().body, 0);
        assert_eq!(head("HTTP/1.1 200 OK\r\n\r\n"), Err(NoAnswer));
        assert_eq!(head("SSH-2.0\r\n\r\n"), Err(NoAnswer));
        assert_eq!(head(&"x".repeat(MAX_HEAD)), Err(NoAnswer));
    }
}
