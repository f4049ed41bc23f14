//! HTTP/1.1 as bytes, so that a test can send what no client library would.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::within;

/// An answer, whole.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The stable code of an error of `/v1`, after a look at the rest of it.
    pub(crate) fn code(&self) -> String {
        let error = &self.json()["error"];
        assert!(!error["message"].as_str().unwrap().is_empty(), "{self:?}");
        error["code"].as_str().unwrap().into()
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }
}

/// One connection.
pub(crate) struct Wire<S> {
    stream: S,
    /// Read, but not yet used.
    ahead: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    pub(crate) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("room to write", self.stream.write_all(bytes)).await?;
        within("a flush", self.stream.flush()).await
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).await.unwrap();
    }

    /// Sends a request without a body.
    pub(crate) async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        self.send(request(method, path, headers)).await;
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(method, path, headers).await;
        if method == "HEAD" { self.head().await } else { self.answer().await }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.unwrap()
    }

    /// The next answer, or how the connection ended instead: `UnexpectedEof` with nothing read is a
    /// clean close, `InvalidData` an answer that was cut.
    pub(crate) async fn try_answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.try_head().await?;
        let cut = |e: io::Error| io::Error::new(io::ErrorKind::InvalidData, format!("answer cut: {e}"));
        if answer.status == 304 || answer.status == 204 || answer.status < 200 {
            return Ok(answer);
        }
        if answer.is_chunked() {
            while let Some(chunk) = self.chunk().await.map_err(cut)? {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.exactly(length).await.map_err(cut)?;
        } else {
            answer.body = self.rest().await;
        }
        Ok(answer)
    }

    /// The head of an answer that has no body.
    pub(crate) async fn head(&mut self) -> Answer {
        self.try_head().await.unwrap()
    }

    async fn try_head(&mut self) -> io::Result<Answer> {
        let head = self.up_to(b"\r\n\r\n").await?;
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap();
        let status = status.split(' ').nth(1).unwrap_or_else(|| panic!("no status line: {status:?}"));
        let header = |line: &str| line.split_once(": ").map(|(n, v)| (n.to_string(), v.to_string()));
        let headers = lines.map(|line| header(line).unwrap_or_else(|| panic!("no header: {line:?}")));
        Ok(Answer { status: status.parse().unwrap(), headers: headers.collect(), body: Vec::new() })
    }

    /// Takes the answer's head and reads what follows as server-sent events.
    pub(crate) async fn events(mut self) -> Events<S> {
        let head = self.head().await;
        assert_eq!(head.status, 200, "{head:?}");
        assert!(head.is_chunked(), "{head:?}");
        Events { wire: self, head, text: Vec::new() }
    }

    /// Reads until the server closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        // A reset is an end too: the server need not read what it will not answer.
        while matches!(self.fill().await, Ok(n) if n > 0) {}
        std::mem::take(&mut self.ahead)
    }

    /// The next chunk of a chunked body; `None` is its proper end.
    async fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = self.up_to(b"\r\n").await?;
        let size = std::str::from_utf8(&size).unwrap().trim_end();
        let size = usize::from_str_radix(size, 16).unwrap();
        let mut chunk = self.exactly(size + 2).await?;
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            self.fill_some().await?;
        }
        Ok(self.ahead.drain(..length).collect())
    }

    async fn up_to(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.ahead, end) {
                return Ok(self.ahead.drain(..at + end.len()).collect());
            }
            self.fill_some().await?;
        }
    }

    async fn fill_some(&mut self) -> io::Result<()> {
        if self.fill().await? == 0 {
            let kind =
                if self.ahead.is_empty() { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData };
            return Err(io::Error::new(kind, "the server closed"));
        }
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<usize> {
        within("bytes of the server", self.stream.read_buf(&mut self.ahead)).await
    }
}

/// A stream of server-sent events.
pub(crate) struct Events<S> {
    wire: Wire<S>,
    pub(crate) head: Answer,
    text: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Events<S> {
    /// The next block: an event or a comment. `None`: the stream ended as it should.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.text, b"\n\n") {
                let block: Vec<u8> = self.text.drain(..at + 2).collect();
                return Some(String::from_utf8(block).unwrap());
            }
            match self.wire.chunk().await.unwrap() {
                Some(chunk) => self.text.extend(chunk),
                None => {
                    assert!(self.text.is_empty(), "the stream ends in the middle of an event");
                    return None;
                }
            }
        }
    }

    /// The roster of the next event that is not a comment.
    pub(crate) async fn roster(&mut self) -> Value {
        loop {
            let block = self.next().await.expect("the stream goes on");
            if block.starts_with(':') {
                continue;
            }
            let mut lines = block.lines();
            assert_eq!(lines.next(), Some("event: roster"), "{block}");
            let id = lines.next().and_then(|l| l.strip_prefix("id: ")).unwrap().to_string();
            let data = lines.next().and_then(|l| l.strip_prefix("data: ")).unwrap();
            let roster: Value = serde_json::from_str(data).unwrap();
            assert_eq!(roster["revision"].to_string(), id);
            return roster;
        }
    }
}

/// The bytes of a request without a body.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: directory\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
