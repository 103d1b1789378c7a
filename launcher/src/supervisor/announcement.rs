//! What a process says on its standard output: once it can be used, and when it ends in order.

use std::net::SocketAddr;

/// What a process says on its standard output once it can be used.
#[derive(Clone, Debug, PartialEq)]
pub enum Announcement {
    /// `ready {json}`: a worker, and what it serves.
    Ready(serde_json::Value),
    /// `listening http://HOST:PORT`: a router.
    Listening(SocketAddr),
}

/// The last line of a worker that ends in order.
const LAST_WORD: &str = "stopped";

/// Whether a process that wrote `said` ended in order. One that writes no last word may have, too.
pub(super) fn ended_in_order(said: &str) -> bool {
    said.strip_suffix('\n').and_then(|said| said.lines().next_back()) == Some(LAST_WORD)
}

impl Announcement {
    /// Reads a line; any other line is none.
    pub(super) fn parse(line: &str) -> Option<Self> {
        if let Some(json) = line.strip_prefix("ready ") {
            return serde_json::from_str(json).ok().map(Self::Ready);
        }
        let address = line.strip_prefix("listening http://")?.trim_end_matches('/');
        address.parse().ok().map(Self::Listening)
    }

    /// What a worker's start took: milliseconds by phase.
    pub(crate) fn phases_ms(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
        match self {
            Self::Ready(ready) => ready.get("phases_ms")?.as_object(),
            Self::Listening(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agreed_lines_are_announcements() {
        let ready = Announcement::parse(r#"ready {"model":"m"}"#);
        assert_eq!(ready, Some(Announcement::Ready(serde_json::json!({ "model": "m" }))));
        let listening = Announcement::parse("listening http://[::1]:80");
        assert_eq!(listening, Some(Announcement::Listening("[::1]:80".parse().unwrap())));
        for line in ["", "ready", "ready or not", "listening tcp://a:1", "listening http://host:x"]
        {
            assert_eq!(Announcement::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_last_word_is_a_whole_line_and_the_last() {
        for said in ["stopped\n", "ready {}\nstopped\n"] {
            assert!(ended_in_order(said), "{said}");
        }
        for said in ["", "\n", "stopped", "ready {}\n", "stopped\nready {}\n", "it stopped\n"] {
            assert!(!ended_in_order(said), "{said}");
        }
    }
}
