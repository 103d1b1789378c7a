//! How a version is sampled from where a request doesn't say. The ranges are the worker's to know.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use serde_json::Number;

/// How a version is sampled from where a request doesn't say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingDefaults {
    /// Divides the logits; 0 is greedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Number>,
    /// The likeliest tokens that are drawn from; 0 for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// The probability that the tokens have together that are drawn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<Number>,
    /// The least probability of a token, as a part of the likeliest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<Number>,
    /// Divides the logits of tokens that were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<Number>,
    /// Taken from the logits for each time that a token was generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<Number>,
    /// Taken from the logits of tokens that were generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<Number>,
    /// Most tokens of a completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<NonZeroU32>,
    /// Texts that end a completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Vec<String>>,
}

impl SamplingDefaults {
    /// These, and what they leave open as `base` says.
    pub(super) fn over(self, base: Self) -> Self {
        Self {
            temperature: self.temperature.or(base.temperature),
            top_k: self.top_k.or(base.top_k),
            top_p: self.top_p.or(base.top_p),
            min_p: self.min_p.or(base.min_p),
            repetition_penalty: self.repetition_penalty.or(base.repetition_penalty),
            frequency_penalty: self.frequency_penalty.or(base.frequency_penalty),
            presence_penalty: self.presence_penalty.or(base.presence_penalty),
            max_tokens: self.max_tokens.or(base.max_tokens),
            stop: self.stop.or(base.stop),
        }
    }

    /// As the worker takes it.
    pub(super) fn json(&self) -> String {
        // A struct of texts and numbers can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SamplingDefaults {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_table_becomes_json_and_comes_back_from_a_lock_file() {
        let sampling = parse("temperature = 0.6\ntop_k = 20\nstop = [\"END\"]\nmin_p = 0");

        assert_eq!(sampling.json(), r#"{"temperature":0.6,"top_k":20,"min_p":0,"stop":["END"]}"#);
        assert_eq!(parse(&toml::to_string(&sampling).unwrap()), sampling);
    }

    #[test]
    fn each_value_goes_before_that_of_the_base() {
        let both = parse("temperature = 0").over(parse("temperature = 1.5\ntop_p = 0.9"));

        assert_eq!(both, parse("temperature = 0\ntop_p = 0.9"));
    }
}
