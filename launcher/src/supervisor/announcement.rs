//! What a process says on its standard output once it can be used.

use std::net::SocketAddr;

/// What a process says on its standard output once it can be used.
#[derive(Clone, Debug, PartialEq)]
pub enum Announcement {
    /// `ready {json}`: a worker, and what it serves.
    Ready(serde_json::Value),
    /// `listening http://HOST:PORT`: a router.
    Listening(SocketAddr),
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
}
