//! Answers many questions in one batch, and prints each answer with its question's id.
//!
//!     cargo run --example batch -- "What do cats eat?" "Why is the sky blue?"
//!
//! `SCONCE_URL` is the server, `SCONCE_API_KEY` the key.

#![expect(clippy::print_stdout, reason = "prints the answers")]

use std::time::Duration;

use sconce_client::{BatchRequest, Client, FileUpload};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("SCONCE_URL").unwrap_or_else(|_| "http://127.0.0.1:8000".to_owned());
    let key = std::env::var("SCONCE_API_KEY").unwrap_or_default();
    let client = Client::builder(url).api_key(key).build()?;
    let models = client.models().await?;
    let model = models.first().ok_or_else(|| anyhow::anyhow!("the server has no model"))?;

    let lines = std::env::args().skip(1).enumerate().map(|(i, question)| {
        let body = json!({
            "model": model.id, "max_completion_tokens": 32,
            "messages": [{"role": "user", "content": question}],
        });
        let line = json!({
            "custom_id": format!("question-{i}"), "method": "POST",
            "url": "/v1/chat/completions", "body": body,
        });
        format!("{line}\n")
    });
    let file = FileUpload::from_bytes("questions.jsonl", "batch", lines.collect::<String>());
    let file = client.upload(file).await?;
    let mut batch =
        client.create_batch(&BatchRequest::new(file.id, "/v1/chat/completions")).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while !batch.status.is_final() {
        ticks.tick().await;
        batch = client.batch(&batch.id).await?;
    }

    println!("{}", batch.status.as_str());
    for id in [batch.output_file_id, batch.error_file_id].into_iter().flatten() {
        let mut text = Vec::new();
        let mut content = client.file_content(&id).await?;
        while let Some(piece) = content.next().await {
            text.extend_from_slice(&piece?);
        }
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line)?;
            let answer = &line["response"]["body"]["choices"][0]["message"]["content"];
            println!("{}: {answer}", line["custom_id"]);
        }
    }
    Ok(())
}
