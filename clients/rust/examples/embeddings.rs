//! Finds which of some texts is closest in meaning to a question.
//!
//!     cargo run --example embeddings -- "What do cats eat?"
//!
//! `SCONCE_URL` is the server, `SCONCE_API_KEY` the key; it must serve an embedding model.

#![expect(clippy::print_stdout, reason = "prints the answer")]

use sconce_client::{Client, EmbeddingRequest};

const TEXTS: [&str; 3] =
    ["Cats live on mice and fish.", "Rust is a language.", "Paris lies on the Seine."];

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("SCONCE_URL").unwrap_or_else(|_| "http://127.0.0.1:8000".to_owned());
    let key = std::env::var("SCONCE_API_KEY").unwrap_or_default();
    let client = Client::builder(url).api_key(key).build()?;
    let models = client.models().await?;
    let model = models.first().ok_or_else(|| anyhow::anyhow!("the server has no model"))?;
    let question = std::env::args().nth(1).unwrap_or_else(|| "What do cats eat?".to_owned());

    let texts = TEXTS.into_iter().chain([question.as_str()]);
    let reply = client.embed(&EmbeddingRequest::new(&model.id, texts)).await?;
    let vectors: Vec<_> = reply.data.iter().map(|embedding| &embedding.embedding[..]).collect();
    let Some((asked, known)) = vectors.split_last() else { anyhow::bail!("no vectors came") };
    let best = (0..known.len())
        .max_by(|a, b| cosine(known[*a], asked).total_cmp(&cosine(known[*b], asked)));
    println!("{}", best.map_or("nothing", |best| TEXTS[best]));
    Ok(())
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
