//! Asks a version golden prompts: of the router, by the version's pinned name, as a client would.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fleet::golden::{self, Answer, MAX_BYTES, Prompt, Verdict};
use crate::name::VersionId;
use crate::supervisor::reachable;

/// One answer takes no longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of one answer's stream.
const MAX_ANSWER_BYTES: usize = 16 << 20;

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

/// Whether a file has golden prompts, or what is wrong with it.
pub(super) async fn check(file: &str) -> Result<(), String> {
    read(file).await.map(drop)
}

async fn read(file: &str) -> Result<Vec<golden::Golden>, String> {
    let complain = |error: &dyn std::fmt::Display| format!("checks.golden: {file}: {error}");
    let metadata = tokio::fs::metadata(file).await.map_err(|error| complain(&error))?;
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if size > MAX_BYTES {
        return Err(complain(&golden::Error::TooLarge(size)));
    }
    let text = tokio::fs::read_to_string(file).await.map_err(|error| complain(&error))?;
    golden::parse(&text).map_err(|error| complain(&error))
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
        for prompt in &prompts {
            let judged = match ask(prompt, (address, version), key).await {
                Ok(answer) => golden::judge(prompt, &answer),
                Err(why) => Verdict::Fails(format!("line {}: {why}", prompt.line)),
            };
            if let Verdict::Fails(why) = judged {
                verdict = Err(why);
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

/// Asks one prompt, greedily.
async fn ask(
    prompt: &golden::Golden,
    (address, version): (SocketAddr, &VersionId),
    key: Option<&str>,
) -> Result<Answer, String> {
    let mut body = json!({
        "model": version.to_string(), "max_tokens": prompt.max_tokens, "temperature": 0,
        "stream": true,
    });
    let path = match &prompt.prompt {
        Prompt::Text(text) => {
            body["prompt"] = json!(text);
            "completions"
        }
        Prompt::Messages(messages) => {
            body["messages"] = json!(messages);
            "chat/completions"
        }
    };
    let client = reqwest::Client::new();
    let mut request = client.post(format!("http://{address}/v1/{path}")).timeout(PATIENCE);
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let asked = Instant::now();
    let answer = request.json(&body).send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("the router answered {status}"));
    }
    let mut stream = answer.bytes_stream();
    let (mut bytes, mut ttft) = (Vec::new(), None);
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
        if bytes.len() > MAX_ANSWER_BYTES {
            return Err(format!("the answer has more than {MAX_ANSWER_BYTES} bytes"));
        }
        if ttft.is_none() && !text_of(&bytes)?.is_empty() {
            ttft = Some(asked.elapsed());
        }
    }
    Ok(Answer { text: text_of(&bytes)?, ttft: ttft.unwrap_or_else(|| asked.elapsed()) })
}

/// The text of a stream of events, as far as it has come.
fn text_of(stream: &[u8]) -> Result<String, String> {
    let mut text = String::new();
    for line in stream.split_inclusive(|byte| *byte == b'\n') {
        let is_whole = line.ends_with(b"\n");
        let Some(event) = line.strip_prefix(b"data: ").filter(|_| is_whole) else { continue };
        if event.starts_with(b"[DONE]") {
            break;
        }
        let event: Value = serde_json::from_slice(event).map_err(|error| error.to_string())?;
        if let Some(error) = event.get("error") {
            let code = error["code"].as_str().unwrap_or("an error");
            return Err(format!("the stream broke off: {code}"));
        }
        let choice = &event["choices"][0];
        let part = choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str());
        text.push_str(part.unwrap_or_default());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_stream_is_that_of_its_whole_events() {
        let chat = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n: alive\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choi";
        assert_eq!(text_of(chat), Ok("a".to_owned()));
        let texts = b"data: {\"choices\":[{\"text\":\"b\"}]}\n\ndata: [DONE]\n\ndata: x\n";
        assert_eq!(text_of(texts), Ok("b".to_owned()));
        let broken = b"data: {\"error\":{\"code\":\"worker_lost\"}}\n";
        assert_eq!(text_of(broken), Err("the stream broke off: worker_lost".to_owned()));
    }

    #[tokio::test]
    async fn a_file_that_asks_nothing_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = check(file.path().to_str().unwrap()).await.unwrap_err();
        assert!(error.starts_with("checks.golden: ") && error.contains("no golden prompts"));
        assert!(check("/nonexistent/golden").await.is_err());
    }
}
