//! Shows what a refusal looks like, and a body that has no type here.
//!
//!     cargo run --example errors
//!
//! `SCONCE_URL` is the server, `SCONCE_API_KEY` the key.

#![expect(clippy::print_stdout, reason = "prints the answer")]

use sconce_client::{Client, Error};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("SCONCE_URL").unwrap_or_else(|_| "http://127.0.0.1:8000".to_owned());
    let key = std::env::var("SCONCE_API_KEY").unwrap_or_default();
    let client = Client::builder(url).api_key(key).max_retries(5).build()?;

    // Any path and any JSON will do: what comes back is what was sent.
    let models: Value = client.get("models").await?;
    println!("the server's list is a `{}`", models["object"].as_str().unwrap_or("?"));

    let nonsense = json!({"model": "nobody", "messages": []});
    match client.post::<_, Value>("chat/completions", &nonsense).await {
        Ok(_) => println!("it was answered"),
        Err(Error::Status { status, error, .. }) => {
            println!("refused with {status}, code {:?}, parameter {:?}", error.code, error.param);
        }
        Err(error) if error.is_transient() => println!("try again later: {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
