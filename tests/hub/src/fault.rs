//! What a host does to one request instead of answering it well.

use serde::Deserialize;

/// What a host does to one request instead of answering it well.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    // Either host.
    /// Answers with a status.
    Status(u16),
    /// Answers with a status and `Retry-After`.
    RetryAfter(u16, String),
    /// Answers with a status and the seconds until the client's budget is full again, as
    /// `RateLimit` says them.
    RateLimit(u16, u64),
    /// Redirects to itself.
    RedirectLoop,
    /// Redirects to something that is no web server.
    RedirectAway,
    /// Answers as it should, after so many milliseconds.
    Slow(u64),
    /// Says nothing at all, without hanging up.
    Silent,

    // The second host: what becomes of the bytes.
    /// Says that all comes, and hangs up after so many bytes.
    Cut(usize),
    /// Sends other bytes of the right length.
    WrongBytes,
    /// Sends the right length with one bit flipped.
    Flip(usize),
    /// Sends the right length with two bytes in each other's place.
    Swap(usize, usize),
    /// Sends less, and says so.
    Short(usize),
    /// Sends more, without saying how much.
    Long(usize),
    /// Ignores `Range`.
    NoRange,
    /// Answers a range with another one.
    WrongRange,
    /// Answers a range as one of a larger file.
    WrongTotal,
    /// Has another ETag from now on.
    NewEtag,
    /// Sends some bytes and then nothing, without hanging up.
    Stall(usize),

    // The hub: what becomes of its words.
    /// Sends the first half of its JSON.
    TruncatedJson,
    /// Sends a page for people where JSON is expected.
    Html,
    /// Announces so many bytes.
    Size(u64),
    /// Announces a content under this name.
    Etag(String),
    /// Answers with another commit than the one that was asked for.
    Commit(String),
    /// Leaves out `X-Repo-Commit`.
    NoCommit,
    /// Leads from a page to the same page.
    PageLoop,
    /// Leads from a page to another host.
    PageAway,
}
