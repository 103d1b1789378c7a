//! How a version is served unless a command line says otherwise.
//!
//! Every field becomes a flag of the worker, so that nothing here can be said without taking effect.

use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;

use serde::{Deserialize, Serialize};

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

    /// Flags for the worker. `template` is where the chat template was put.
    pub fn worker_args(&self, template: Option<&Path>) -> Vec<OsString> {
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
        ];
        let given = flags.into_iter().filter_map(|(flag, value)| Some([flag.into(), value?]));
        given.flatten().collect()
    }
}

/// As the flags that they become, for people.
impl std::fmt::Display for Defaults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let template = self.chat_template.as_ref().map(|_| Path::new("(its own)"));
        let words = self.worker_args(template);
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
