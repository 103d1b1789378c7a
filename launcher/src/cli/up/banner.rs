//! What is printed once everything is ready.

use std::net::SocketAddr;
use std::time::Duration;

/// What a newcomer pastes next.
pub(super) struct Banner<'a> {
    pub(super) models: &'a [String],
    pub(super) address: SocketAddr,
    pub(super) access: Access,
    pub(super) took: Duration,
}

/// How clients get in.
pub(super) enum Access {
    /// With a key that was made just now.
    NewKey(String),
    /// With a key that was made before.
    KnownKey,
    /// Without one.
    Open,
}

impl std::fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { models, address, took, .. } = self;
        let model = models.first().map_or("", String::as_str);
        writeln!(f, "serving {}", models.join(", "))?;
        writeln!(f, "base URL  http://{address}/v1")?;
        let header = match &self.access {
            Access::NewKey(key) => {
                writeln!(f, "API key   {key}  (shown this once; keep it)")?;
                format!(" -H 'Authorization: Bearer {key}'")
            }
            Access::KnownKey => {
                writeln!(f, "API key   yours; `sconce keys create` makes another")?;
                " -H \"Authorization: Bearer $SCONCE_API_KEY\"".to_owned()
            }
            Access::Open => String::new(),
        };
        writeln!(f)?;
        writeln!(
            f,
            "curl http://{address}/v1/chat/completions{header} \
             -H 'Content-Type: application/json' -d '{{\"model\":\"{model}\",\
             \"messages\":[{{\"role\":\"user\",\"content\":\"Say hello in one sentence.\"}}]}}'"
        )?;
        writeln!(f)?;
        writeln!(f, "ready in {} ms", took.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curl_line_is_one_line_with_the_key_in_it() {
        let banner = Banner {
            models: &["smollm2:135m".to_owned(), "qwen3:prod".to_owned()],
            address: "127.0.0.1:8000".parse().unwrap(),
            access: Access::NewKey("sk-x".to_owned()),
            took: Duration::from_millis(412),
        };

        let text = banner.to_string();

        assert!(text.starts_with("serving smollm2:135m, qwen3:prod\n"), "{text}");
        let curl = text.lines().find(|line| line.starts_with("curl ")).unwrap();
        assert!(curl.contains("Bearer sk-x"));
        assert!(curl.ends_with(r#"[{"role":"user","content":"Say hello in one sentence."}]}'"#));
        assert!(text.ends_with("ready in 412 ms\n"));
    }
}
