//! The formats by name, and how a chat template shows which one its model writes.

use std::fmt;
use std::str::FromStr;

use super::json::named::{ARGS, CALL_ID};
use super::{deepseek, harmony, pythonic, xml};

pub(super) const THINK: &[&str; 2] = &["<think>", "</think>"];
pub(super) const MISTRAL_THINK: &[&str; 2] = &["[THINK]", "[/THINK]"];

/// How a model writes calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3.
    Hermes,
    /// `{"name": …, "parameters": {…}}`, with or without `<|python_tag|>`: Llama 3 and 4.
    Llama,
    /// `[name(key="value")]`: Llama 3.2 and 4, where a template asks for it.
    Pythonic,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]`: Mistral's models up to 2024.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`: Mistral's models since 2025.
    MistralArgs,
    /// `<function=name><parameter=key>value</parameter></function>`: Qwen3-Coder.
    QwenXml,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name` and a fenced block: DeepSeek V3 and R1.
    DeepSeekV3,
    /// `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}`: DeepSeek V3.1.
    DeepSeekV31,
    /// Messages with channels: gpt-oss.
    Harmony,
    /// `{"name": …, "arguments": {…}}` as the whole answer, or a list of them.
    Json,
}

/// How a model writes its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasoningFormat {
    /// `<think>…</think>`, where either the model or its prompt begins it.
    Think,
    /// `…</think>`: reasoning without a beginning, unless the prompt has ended it.
    DeepSeekR1,
    /// `[THINK]…[/THINK]`.
    Mistral,
    /// The channel `analysis`.
    Harmony,
}

/// What a model writes besides text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Its calls of tools, if it was trained to make some.
    pub tools: Option<ToolFormat>,
    /// Its reasoning, if it reasons.
    pub reasoning: Option<ReasoningFormat>,
}

/// A name that is no format's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a format; there are {known}")]
pub struct UnknownFormat {
    name: String,
    known: String,
}

impl ToolFormat {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Self::Hermes,
        Self::Llama,
        Self::Pythonic,
        Self::Mistral,
        Self::MistralArgs,
        Self::QwenXml,
        Self::DeepSeekV3,
        Self::DeepSeekV31,
        Self::Harmony,
        Self::Json,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::Llama => "llama",
            Self::Pythonic => "pythonic",
            Self::Mistral => "mistral",
            Self::MistralArgs => "mistral-args",
            Self::QwenXml => "qwen3-coder",
            Self::DeepSeekV3 => "deepseek-v3",
            Self::DeepSeekV31 => "deepseek-v3.1",
            Self::Harmony => "harmony",
            Self::Json => "json",
        }
    }

    /// The format that a chat template shows, if it is one of these.
    pub fn detect(chat_template: &str) -> Option<Self> {
        let has = |text: &str| chat_template.contains(text);
        if has(harmony::CHANNEL) && has(harmony::MESSAGE) {
            return Some(Self::Harmony);
        }
        if has(deepseek::CALL_BEGIN) {
            return Some(if has("```json") { Self::DeepSeekV3 } else { Self::DeepSeekV31 });
        }
        if has(xml::FUNCTION) {
            // Others write functions like this, but their parameters or what is around otherwise.
            return (has(xml::OPEN) && has(xml::PARAMETER)).then_some(Self::QwenXml);
        }
        if has("[TOOL_CALLS]") {
            return Some(if has(ARGS) { Self::MistralArgs } else { Self::Mistral });
        }
        // GLM and MiniMax write other things between the same markers.
        if has("<tool_call>") && !has("<arg_key>") && !has("<invoke") {
            return Some(Self::Hermes);
        }
        if has("func_name1(") {
            return Some(Self::Pythonic);
        }
        let is_llama = has("<|start_header_id|>") && has("\"parameters\": ");
        (is_llama || has("<|python_tag|>") || has(pythonic::START)).then_some(Self::Llama)
    }

    /// The texts that its parser must see. Some of them are special tokens of the models, whose
    /// texts are not part of a completion otherwise.
    pub fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>", "</tool_call>"],
            Self::Llama => &["<|python_tag|>", pythonic::START, pythonic::END],
            Self::Pythonic => &[pythonic::START, pythonic::END],
            Self::Mistral | Self::MistralArgs => &["[TOOL_CALLS]", CALL_ID, ARGS],
            Self::QwenXml => &[
                xml::OPEN,
                xml::CLOSE,
                xml::FUNCTION,
                xml::FUNCTION_END,
                xml::PARAMETER,
                xml::PARAMETER_END,
            ],
            Self::DeepSeekV3 | Self::DeepSeekV31 => &[
                deepseek::CALLS_BEGIN,
                deepseek::CALLS_END,
                deepseek::CALL_BEGIN,
                deepseek::CALL_END,
                deepseek::SEPARATOR,
            ],
            Self::Harmony => HARMONY,
            Self::Json => &[],
        }
    }
}

const HARMONY: &[&str] = &[
    harmony::START,
    harmony::CHANNEL,
    harmony::CONSTRAIN,
    harmony::MESSAGE,
    harmony::END,
    harmony::CALL,
    harmony::RETURN,
];

impl ReasoningFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Think, Self::DeepSeekR1, Self::Mistral, Self::Harmony];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Think => "think",
            Self::DeepSeekR1 => "deepseek-r1",
            Self::Mistral => "mistral",
            Self::Harmony => "harmony",
        }
    }

    /// The format that a chat template shows, if it is one of these.
    pub fn detect(chat_template: &str) -> Option<Self> {
        let has = |text: &str| chat_template.contains(text);
        let [think, end_think] = *THINK;
        if has(harmony::CHANNEL) && has(harmony::MESSAGE) {
            Some(Self::Harmony)
        } else if has("[THINK]") {
            Some(Self::Mistral)
        } else if has(end_think) && !has(think) && has("<｜Assistant｜>") {
            Some(Self::DeepSeekR1)
        } else if has(think) || has(end_think) {
            Some(Self::Think)
        } else {
            None
        }
    }

    /// The texts that its parser must see.
    pub fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Think | Self::DeepSeekR1 => THINK,
            Self::Mistral => MISTRAL_THINK,
            Self::Harmony => HARMONY,
        }
    }

    /// Where the completion of a prompt begins.
    pub fn start(self, prompt: &str) -> super::Start {
        let prompt = prompt.trim_end();
        let [think, end_think] = *THINK;
        let [mistral_think, _] = *MISTRAL_THINK;
        let is_reasoning = match self {
            Self::Think => prompt.ends_with(think),
            Self::DeepSeekR1 => !prompt.ends_with(end_think),
            Self::Mistral => prompt.ends_with(mistral_think),
            Self::Harmony => false,
        };
        if is_reasoning { super::Start::Reasoning } else { super::Start::Answer }
    }
}

impl Formats {
    /// The formats that a chat template shows.
    pub fn detect(chat_template: &str) -> Self {
        let tools = ToolFormat::detect(chat_template);
        Self { tools, reasoning: ReasoningFormat::detect(chat_template) }
    }

    /// The texts that the parser must see.
    pub fn markers(self) -> impl Iterator<Item = &'static str> {
        let tools = self.tools.map(ToolFormat::markers).unwrap_or_default();
        let reasoning = self.reasoning.map(ReasoningFormat::markers).unwrap_or_default();
        tools.iter().chain(reasoning).copied()
    }
}

impl fmt::Display for ToolFormat {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for ReasoningFormat {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ToolFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| UnknownFormat::new(name, Self::ALL.map(Self::name).as_slice()))
    }
}

impl FromStr for ReasoningFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| UnknownFormat::new(name, Self::ALL.map(Self::name).as_slice()))
    }
}

impl UnknownFormat {
    fn new(name: &str, known: &[&str]) -> Self {
        Self { name: name.to_owned(), known: known.join(", ") }
    }
}
