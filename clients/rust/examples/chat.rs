//! Asks one question and prints the answer as it comes.
//!
//!     cargo run --example chat -- "Why is the sky blue?"
//!
//! `SCONCE_URL` is the server, `SCONCE_API_KEY` the key.

#![expect(clippy::print_stdout, reason = "prints the answer")]

use std::io::Write;

use sconce_client::{ChatRequest, Client};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("SCONCE_URL").unwrap_or_else(|_| "http://127.0.0.1:8000".to_owned());
    let key = std::env::var("SCONCE_API_KEY").unwrap_or_default();
    let client = Client::builder(url).api_key(key).build()?;
    let models = client.models().await?;
    let model = models.first().ok_or_else(|| anyhow::anyhow!("the server has no model"))?;
    let question = std::env::args().nth(1).unwrap_or_else(|| "Hello! Who are you?".to_owned());

    let request = ChatRequest::new(&model.id).user(question).with_usage();
    let mut stream = client.chat_stream(&request).await?;
    let mut usage = None;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        print!("{}", chunk.text());
        std::io::stdout().flush()?;
        usage = chunk.usage.or(usage);
    }
    println!();
    if let Some(usage) = usage {
        println!("({} tokens in, {} out)", usage.prompt_tokens, usage.completion_tokens);
    }
    Ok(())
}
