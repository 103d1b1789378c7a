//! How a version is served unless a command line says otherwise.
//!
//! Every field becomes a flag of the worker, so that nothing here can be said without taking effect.

use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SamplingDefaults;

/// How a version is served unless a command line says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Most tokens of prompt and completion together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<NonZeroU32>,
    /// Most sequences that run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
    /// What plain floats are quantized to while they are loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantization>,
    /// What the KV cache stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// Bytes of the KV cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_bytes: Option<NonZeroU64>,
    /// How the model writes calls of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_parser: Option<String>,
    /// How the model writes its reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_parser: Option<String>,
    /// How next tokens are guessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<Speculation>,
    /// Jinja source of the chat template, instead of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// How to sample where a request doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingDefaults>,
}

/// What plain floats are quantized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 8 bits.
    Q8,
    /// 4 bits.
    Q4,
}

/// What a KV cache stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheDtype {
    /// Integers of 8 bits.
    Int8,
    /// Floats of 16 bits, 8 of precision.
    Bf16,
    /// Floats of 16 bits, 11 of precision.
    F16,
    /// Floats of 32 bits.
    F32,
}

/// How next tokens are guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speculation {
    /// From what followed the last tokens earlier.
    PromptLookup,
    /// Not.
    Off,
}

impl Defaults {
    /// The same text for the same defaults.
    pub(crate) fn canonical(&self) -> String {
        // A struct of texts and numbers can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// These, and what they leave open as `base` says.
    pub(super) fn over(self, base: Self) -> Self {
        Self {
            context_length: self.context_length.or(base.context_length),
            concurrency: self.concurrency.or(base.concurrency),
            quantize: self.quantize.or(base.quantize),
            kv_cache_dtype: self.kv_cache_dtype.or(base.kv_cache_dtype),
            kv_cache_bytes: self.kv_cache_bytes.or(base.kv_cache_bytes),
            tool_parser: self.tool_parser.or(base.tool_parser),
            reasoning_parser: self.reasoning_parser.or(base.reasoning_parser),
            speculation: self.speculation.or(base.speculation),
            chat_template: self.chat_template.or(base.chat_template),
            sampling: match (self.sampling, base.sampling) {
                (Some(own), Some(base)) => Some(own.over(base)),
                (own, base) => own.or(base),
            },
        }
    }

    /// Flags for the worker, but for what the flags in `given` say otherwise. `template` is where the
    /// chat template was put.
    pub fn worker_args(&self, template: Option<&Path>, given: &[OsString]) -> Vec<OsString> {
        let text = |value: &Option<String>| value.clone().map(OsString::from);
        let number = |value: Option<NonZeroU32>| value.map(|n| OsString::from(n.to_string()));
        let flags = [
            ("--max-model-len", number(self.context_length)),
            ("--max-num-seqs", number(self.concurrency)),
            ("--quantize", self.quantize.map(|it| it.flag().into())),
            ("--kv-cache-dtype", self.kv_cache_dtype.map(|it| it.flag().into())),
            ("--kv-cache-bytes", self.kv_cache_bytes.map(|n| n.to_string().into())),
            ("--tool-parser", text(&self.tool_parser)),
            ("--reasoning-parser", text(&self.reasoning_parser)),
            ("--speculation", self.speculation.map(|it| it.flag().into())),
            ("--chat-template", template.map(|path| path.as_os_str().to_owned())),
            (SAMPLING_FLAG, self.sampling.as_ref().map(|it| it.json().into())),
        ];
        let own = flags.into_iter().filter(|(flag, _)| !is_said(flag, given));
        own.filter_map(|(flag, value)| Some([flag.into(), value?])).flatten().collect()
    }
}

const SAMPLING_FLAG: &str = "--override-generation-config";

/// Flags that mean the same or can't stand beside each other.
const EXCLUDES: [(&str, &[&str]); 3] = [
    ("--kv-cache-bytes", &["--num-blocks"]),
    ("--kv-cache-dtype", &["--kv-dtype", "--exact"]),
    ("--quantize", &["--exact"]),
];

/// Whether `given` has `flag`, or one that excludes it.
fn is_said(flag: &str, given: &[OsString]) -> bool {
    let others = EXCLUDES.iter().find(|(name, _)| *name == flag).map_or(&[][..], |it| it.1);
    [flag].iter().chain(others).any(|flag| has_flag(flag, given))
}

/// Whether `given` has `flag`, as `--flag value` or `--flag=value`.
pub(crate) fn has_flag(flag: &str, given: &[OsString]) -> bool {
    given.iter().any(|word| {
        let word = word.to_string_lossy();
        word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// As the flags that they become, for people.
impl std::fmt::Display for Defaults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let template = self.chat_template.as_ref().map(|_| Path::new("(its own)"));
        let words = self.worker_args(template, &[]);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        f.write_str(&words.join(" "))
    }
}

impl Quantization {
    fn flag(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }
}

impl KvCacheDtype {
    fn flag(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

impl Speculation {
    fn flag(self) -> &'static str {
        match self {
            Self::PromptLookup => "prompt-lookup",
            Self::Off => "off",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_command_line_has_the_last_word() {
        let defaults = Defaults {
            context_length: NonZeroU32::new(1024),
            concurrency: NonZeroU32::new(8),
            quantize: Some(Quantization::Q4),
            kv_cache_dtype: Some(KvCacheDtype::Int8),
            kv_cache_bytes: NonZeroU64::new(4096),
            ..Defaults::default()
        };

        let all = "--max-model-len 1024 --max-num-seqs 8 --quantize q4 --kv-cache-dtype int8 \
                   --kv-cache-bytes 4096";
        assert_eq!(defaults.to_string(), all);
        let given = words(&["--max-num-seqs=2", "--num-blocks", "7", "--exact"]);
        assert_eq!(defaults.worker_args(None, &given), words(&["--max-model-len", "1024"]));
        let longer = words(&["--quantize-more"]);
        assert_eq!(defaults.worker_args(None, &longer).len(), 10);
    }

    #[test]
    fn every_default_is_a_flag() {
        let defaults = Defaults {
            context_length: NonZeroU32::new(1),
            concurrency: NonZeroU32::new(1),
            quantize: Some(Quantization::Q8),
            kv_cache_dtype: Some(KvCacheDtype::F16),
            kv_cache_bytes: NonZeroU64::new(1),
            tool_parser: Some("hermes".into()),
            reasoning_parser: Some("think".into()),
            speculation: Some(Speculation::Off),
            chat_template: Some("{{ messages }}".into()),
            sampling: Some(SamplingDefaults { top_k: Some(20), ..SamplingDefaults::default() }),
        };
        let num_fields = serde_json::to_value(&defaults).unwrap().as_object().unwrap().len();

        let args = defaults.worker_args(Some(Path::new("/t.jinja")), &[]);

        assert_eq!(args.len(), 2 * num_fields);
    }
}
