//! Golden prompts: what a version must answer before it gets traffic.
//!
//! A file with one JSON object a line: a `prompt` or `messages`, and what the answer must be
//! (`expect`) or have in it (`contains`); `max_tokens` of it (64 otherwise). Asked of the router, greedily, by
//! the version's pinned name, as a client would ask.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::name::VersionId;
use crate::supervisor::reachable;

/// A file of golden prompts has at most so many bytes…
const MAX_BYTES: u64 = 4 << 20;

/// …and so many lines.
const MAX_PROMPTS: usize = 1000;

/// One answer takes no longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lends the launcher an API key of a router's database.
pub type LendKey =
    Arc<dyn Fn(PathBuf) -> BoxFuture<'static, anyhow::Result<LentKey>> + Send + Sync>;

/// An API key that is given back.
pub struct LentKey {
    /// What a client sends.
    pub key: String,
    /// Makes it worthless.
    pub give_back: BoxFuture<'static, anyhow::Result<()>>,
}

/// What golden prompts are asked with.
#[derive(Clone)]
pub(crate) struct Golden {
    /// Where the router listens, once it does.
    pub(crate) router: watch::Receiver<Option<SocketAddr>>,
    /// The router's database, if requests need a key, and who lends one.
    pub(crate) keys: Option<(PathBuf, LendKey)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    prompt: Option<String>,
    messages: Option<Value>,
    max_tokens: Option<u32>,
    expect: Option<String>,
    contains: Option<String>,
}

/// Whether a file has golden prompts, or what is wrong with it.
pub(super) async fn check(file: &str) -> Result<(), String> {
    read(file).await.map(drop)
}

async fn read(file: &str) -> Result<Vec<Prompt>, String> {
    let complain = |error: &dyn std::fmt::Display| format!("checks.golden: {file}: {error}");
    let metadata = tokio::fs::metadata(file).await.map_err(|error| complain(&error))?;
    if metadata.len() > MAX_BYTES {
        return Err(complain(&format!(
            "it has {} bytes, and may have {MAX_BYTES}",
            metadata.len()
        )));
    }
    let text = tokio::fs::read_to_string(file).await.map_err(|error| complain(&error))?;
    let mut prompts = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |error: &dyn std::fmt::Display| complain(&format!("line {}: {error}", index + 1));
        let prompt: Prompt = serde_json::from_str(line).map_err(|error| at(&error))?;
        if prompt.prompt.is_some() == prompt.messages.is_some() {
            return Err(at(&"expected either `prompt` or `messages`"));
        }
        if prompt.expect.is_none() && prompt.contains.is_none() {
            return Err(at(&"expected `expect` or `contains`"));
        }
        prompts.push(prompt);
    }
    match prompts.len() {
        0 => Err(complain(&"it has no prompts")),
        MAX_PROMPTS.. => Err(complain(&format!("it may have {MAX_PROMPTS} prompts at most"))),
        _ => Ok(prompts),
    }
}

impl Golden {
    /// Asks a version all prompts of a file; says what does not hold. Neither prompts nor answers
    /// are told.
    pub(super) async fn ask(&self, version: &VersionId, file: &str) -> Result<(), String> {
        let prompts = read(file).await?;
        let address = *self.router.borrow();
        let address = reachable(address.ok_or("there is no router to ask")?);
        let lent = match &self.keys {
            Some((database, lend)) => {
                let lent = lend(database.clone()).await;
                Some(lent.map_err(|error| format!("making a key for the launcher: {error:#}"))?)
            }
            None => None,
        };
        let key = lent.as_ref().map(|lent| lent.key.as_str());
        let mut verdict = Ok(());
        for (index, prompt) in prompts.iter().enumerate() {
            if let Err(why) = prompt.ask(address, version, key).await {
                verdict = Err(format!("prompt {} of {}: {why}", index + 1, prompts.len()));
                break;
            }
        }
        if let Some(lent) = lent
            && let Err(error) = lent.give_back.await
        {
            tracing::warn!(error = format!("{error:#}"), "could not take the launcher's key back");
        }
        verdict
    }
}

impl Prompt {
    async fn ask(
        &self,
        address: SocketAddr,
        version: &VersionId,
        key: Option<&str>,
    ) -> Result<(), String> {
        let max_tokens = self.max_tokens.unwrap_or(64);
        let mut body =
            json!({ "model": version.to_string(), "max_tokens": max_tokens, "temperature": 0 });
        let path = match (&self.prompt, &self.messages) {
            (Some(prompt), _) => {
                body["prompt"] = json!(prompt);
                "completions"
            }
            (None, messages) => {
                body["messages"] = json!(messages);
                "chat/completions"
            }
        };
        let client = reqwest::Client::new();
        let mut request = client.post(format!("http://{address}/v1/{path}")).timeout(PATIENCE);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let answer = request.json(&body).send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("the router answered {status}"));
        }
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        let choice = &answer["choices"][0];
        let text = choice["text"].as_str().or_else(|| choice["message"]["content"].as_str());
        self.judge(text.ok_or("the answer has no text")?)
    }

    fn judge(&self, text: &str) -> Result<(), String> {
        if self.expect.as_ref().is_some_and(|expected| expected.trim() != text.trim()) {
            return Err("the answer is another".to_owned());
        }
        if self.contains.as_ref().is_some_and(|part| !text.contains(part.as_str())) {
            return Err("the answer does not have in it what it should".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_text(text: &str) -> Result<Vec<Prompt>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path().to_str().unwrap()).await
    }

    #[tokio::test]
    async fn a_file_that_asks_nothing_is_refused_with_its_line() {
        for (text, part) in [
            ("", "no prompts"),
            ("{\"prompt\":\"a\"}", "line 1: expected `expect`"),
            ("\n{\"expect\":\"a\"}", "line 2: expected either"),
            ("{\"prompt\":\"a\",\"expect\":\"b\",\"temperature\":1}", "unknown field"),
        ] {
            let error = read_text(text).await.unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_must_be_or_have_what_is_expected() {
        let text = "{\"prompt\":\"a\",\"expect\":\"yes\"}\n{\"prompt\":\"a\",\"contains\":\"es\"}";
        let [exact, part] = &read_text(text).await.unwrap()[..] else { panic!() };

        assert!(exact.judge(" yes\n").is_ok() && exact.judge("yes!").is_err());
        assert!(part.judge("yes!").is_ok() && part.judge("no").is_err());
    }
}
