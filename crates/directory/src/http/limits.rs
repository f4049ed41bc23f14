//! Every limit of the server, each with its unit and reason. The times are fields, so that a test can
//! shrink them and need not wait.

use std::time::Duration;

/// Bytes of a request head; hyper answers 431 above, and above 100 headers. Asking it for another number
/// of headers makes it fill its tables anew for every request, which costs a tenth of the time of a read.
pub(super) const MAX_HEAD: usize = 16 * 1024;
/// Bytes of an answer that the kernel may hold before it begins to send them.
pub(super) const MOST_UNSENT: u32 = 64 * 1024;
/// File descriptors that are kept for everything that is not a connection.
pub(super) const SPARE_FILES: usize = 128;
/// Connections at once, if the file limit allows them.
pub(super) const MAX_CONNECTIONS: usize = 200_000;

/// Bytes of a body at `/v1/events`: 30 of the largest messages of SQS.
pub(super) const MAX_EVENTS_BODY: usize = 8 * 1024 * 1024;
/// Bytes of a body at `/v1/events/sns`: a message has 256 KiB, and each may take six bytes in JSON only if it is
/// mostly control characters.
pub(super) const MAX_SNS_BODY: usize = 1024 * 1024;
/// Requests at `/v1/events` that are read and worked on at once: 128 MiB if all are as large as they may be.
pub(super) const MOST_EVENTS_BODIES: usize = 16;
/// The same at `/v1/events/sns`, apart, since anyone may send there: 128 MiB.
pub(super) const MOST_SNS_BODIES: usize = 128;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A whole request head must arrive within this; it also ends idle connections.
    pub head_time: Duration,
    /// A TLS handshake must be done within this.
    pub handshake_time: Duration,
    /// A reader that takes nothing for this long is cut off.
    pub write_time: Duration,
    /// After the shutdown, how long connections and requests that are already on their way are still taken:
    /// what a caller has sent by then is answered, not reset.
    pub last_call: Duration,
    /// How long requests in flight may take after that.
    pub grace: Duration,
    /// How long the seed's request waits for the first describe of a fleet of which nothing is known.
    pub first_answer: Duration,
    /// How long the seed's hint waits: a Lambda's default patience is 3 s, and it has to hear the answer.
    pub update_answer: Duration,
    /// A whole body must arrive within this.
    pub body_time: Duration,
    /// How long a request waits for its turn to be read.
    pub body_turn: Duration,
    /// SNS hears an answer within this, whatever happens; it gives up after 15 s.
    pub sns_answer: Duration,
    /// A comment this often keeps proxies on the way from cutting an idle event stream.
    pub comment_every: Duration,
    /// How often the certificate files are looked at.
    pub look_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_time: Duration::from_secs(15),
            handshake_time: Duration::from_secs(10),
            write_time: Duration::from_secs(15),
            last_call: Duration::from_millis(100),
            grace: Duration::from_secs(5),
            first_answer: Duration::from_secs(2),
            update_answer: Duration::from_millis(2_300),
            body_time: Duration::from_secs(10),
            body_turn: Duration::from_secs(1),
            sns_answer: Duration::from_secs(14),
            comment_every: Duration::from_secs(15),
            look_every: Duration::from_secs(2),
        }
    }
}
