//! `sconce create NAME -f FILE`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use super::Fault;
use super::output::Output;
use crate::name::{ModelId, ModelName};
use crate::plan;
use crate::settings::Settings;
use crate::store::{Defaults, Manifest, Store};

/// Makes a version of a model with defaults of its own, from a file
///
/// The files of the base are shared, not copied. What the command line of `sconce up` says goes
/// before the defaults.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce create helper -f helper.toml && sconce up helper

The file is TOML. All but `base` may be left out:
  base = \"smollm2:135m\"             a model of the store
  context_length = 4096             most tokens of prompt and completion together
  concurrency = 8                   most sequences that run at once
  quantize = \"q4\"                   or q8: plain floats, while they are loaded
  kv_cache_dtype = \"int8\"           or bf16, f16, f32
  kv_cache_bytes = 268435456
  speculation = \"off\"               or prompt-lookup
  tool_parser = \"hermes\"            how the model writes calls of tools
  reasoning_parser = \"none\"         how the model writes its reasoning
  chat_template_file = \"chat.jinja\" beside the file; or the text itself, as chat_template

  [sampling]                        what a request doesn't say; the rest as the model's
  temperature = 0.6                 generation_config.json says
  top_p = 0.95
  top_k = 20
  min_p = 0.05
  repetition_penalty = 1.1          and frequency_penalty, presence_penalty
  max_tokens = 1024
  stop = [\"</answer>\"]")]
pub struct Create {
    /// What to call the model
    name: ModelId,

    /// The file
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// What the file says.
struct Recipe {
    base: ModelName,
    defaults: Defaults,
}

impl Create {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let store = Store::new(Settings::from_env()?.home);
        let recipe =
            Recipe::read(&self.file).with_context(|| format!("reading {}", self.file.display()))?;
        if let ModelName::Path(path) = &recipe.base {
            return Err(Fault::Path(path.display().to_string()).into());
        }
        let base = store.get(&recipe.base)?;
        let program = std::env::current_exe().context("finding this program")?;
        check(&program, &base, &recipe.defaults).await?;
        let manifest = store.create(self.name, &recipe.base, recipe.defaults)?;
        self.output.print(&manifest, || {
            let defaults = manifest.defaults.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("created {} from {}: {defaults}\n", manifest.id, base.id)
        })
    }
}

/// The worker has the last word on what it can do with this model.
async fn check(program: &Path, base: &Manifest, defaults: &Defaults) -> anyhow::Result<()> {
    let mut template = tempfile::NamedTempFile::new().context("checking the defaults")?;
    let text = defaults.chat_template.as_deref();
    std::io::Write::write_all(&mut template, text.unwrap_or_default().as_bytes())
        .context("checking the defaults")?;
    let flags: Vec<OsString> = defaults.worker_args(text.map(|_| template.path()), &[]);
    let described = plan::describe(program, &base.model, &flags).await;
    described.map_err(|source| Fault::Describe { model: base.id.to_string(), source })?;
    Ok(())
}

impl Recipe {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, |file| {
            let file = folder.join(file);
            std::fs::read_to_string(&file).with_context(|| file.display().to_string())
        })
    }

    /// `read` gives the text of another file that this one names.
    fn parse(
        text: &str,
        read: impl FnOnce(&str) -> anyhow::Result<String>,
    ) -> anyhow::Result<Self> {
        let mut table: toml::Table = toml::from_str(text)?;
        let mut take = |key: &str| {
            table.remove(key).map(|value| {
                let text = value.as_str().map(str::to_owned);
                text.with_context(|| format!("`{key}` is no text"))
            })
        };
        let base = take("base").context("`base` is missing: the model to start from")??;
        let template_file = take("chat_template_file").transpose()?;
        let mut defaults = Defaults::deserialize(table)?;
        if let Some(file) = template_file {
            if defaults.chat_template.is_some() {
                return Err(Fault::Twice("chat_template", "chat_template_file").into());
            }
            defaults.chat_template = Some(read(&file)?);
        }
        Ok(Self { base: base.parse()?, defaults })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Recipe> {
        Recipe::parse(text, |file| Ok(format!("text of {file}")))
    }

    #[test]
    fn a_file_says_a_base_and_what_is_different() {
        let text = "base = \"a@1\"\ncontext_length = 64\nspeculation = \"off\"\n\
                    chat_template_file = \"x.jinja\"\n[sampling]\ntemperature = 0.5";

        let recipe = parse(text).unwrap();

        assert_eq!(recipe.base.to_string(), "a@1");
        let flags = "--max-model-len 64 --speculation off --chat-template (its own) \
                     --override-generation-config {\"temperature\":0.5}";
        assert_eq!(recipe.defaults.to_string(), flags);
        assert_eq!(recipe.defaults.chat_template.unwrap(), "text of x.jinja");
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        for text in [
            "context_length = 64",
            "base = 3",
            "base = \"a@1\"\ntemperature = 0.5",
            "base = \"a@1\"\n[sampling]\ntemprature = 0.5",
            "base = \"a@1\"\n[sampling]\nmax_tokens = 0",
            "base = \"a@1\"\ncontext_length = 0",
            "base = \"a@1\"\nquantize = \"q5\"",
            "base = \"a@1\"\nchat_template = \"x\"\nchat_template_file = \"y\"",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
