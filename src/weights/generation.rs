//! How a model's authors sample from it: what their `generation_config.json` says, or who serves the
//! model instead.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// How to sample where a request doesn't say. Names and meanings are those of `transformers`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct GenerationConfig {
    /// Divides the logits; 0 is greedy.
    pub temperature: Option<f32>,
    /// The likeliest tokens that are drawn from; 0 or less for all.
    pub top_k: Option<i64>,
    /// The probability that the likeliest tokens have together that are drawn from.
    pub top_p: Option<f32>,
    /// The least probability of a token, as a part of the likeliest's.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that were seen.
    pub repetition_penalty: Option<f32>,
    /// Taken from the logits for each time that a token was generated.
    pub frequency_penalty: Option<f32>,
    /// Taken from the logits of tokens that were generated.
    pub presence_penalty: Option<f32>,
    /// Most tokens of a completion.
    #[serde(alias = "max_tokens")]
    pub max_new_tokens: Option<u32>,
    /// Texts that end a completion.
    #[serde(alias = "stop_strings")]
    pub stop: Option<Vec<String>>,
}

/// What may be overridden, as it is typed.
const NAMES: [&str; 11] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "max_new_tokens",
    "max_tokens",
    "stop",
    "stop_strings",
];

/// Most stop texts, and bytes of one: what a request may have.
const MAX_STOP: usize = 4;
const MAX_STOP_BYTES: usize = 256;

impl GenerationConfig {
    /// Reads what somebody typed: every name must be known.
    pub fn parse(json: &str) -> Result<Self, String> {
        let names: BTreeMap<String, Value> =
            serde_json::from_str(json).map_err(|error| error.to_string())?;
        match names.keys().find(|name| !NAMES.contains(&name.as_str())) {
            Some(name) => Err(format!("`{name}` is unknown; known are {}", NAMES.join(", "))),
            None => Self::read(json),
        }
    }

    /// Reads a `generation_config.json`, which has much that is none of sampling.
    pub(super) fn read(json: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// These, and what they leave open as `base` says.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            temperature: self.temperature.or(base.temperature),
            top_k: self.top_k.or(base.top_k),
            top_p: self.top_p.or(base.top_p),
            min_p: self.min_p.or(base.min_p),
            repetition_penalty: self.repetition_penalty.or(base.repetition_penalty),
            frequency_penalty: self.frequency_penalty.or(base.frequency_penalty),
            presence_penalty: self.presence_penalty.or(base.presence_penalty),
            max_new_tokens: self.max_new_tokens.or(base.max_new_tokens),
            stop: self.stop.or(base.stop),
        }
    }

    /// The ranges are those of requests.
    fn check(&self) -> Result<(), String> {
        for (name, value, least, most) in [
            ("temperature", self.temperature, 0.0, 2.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
        ] {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                let least = if name == "top_p" { "above 0" } else { &format!("from {least}") };
                return Err(format!("`{name}` is {value} and must be {least} to {most}"));
            }
        }
        if let Some(k) = self.top_k.filter(|k| u32::try_from(*k).is_err() && *k > 0) {
            return Err(format!("`top_k` is {k} and must be at most {}", u32::MAX));
        }
        if self.max_new_tokens == Some(0) {
            return Err("`max_new_tokens` is 0 and must be at least 1".to_owned());
        }
        let stop = self.stop.as_deref().unwrap_or_default();
        if stop.len() > MAX_STOP {
            return Err(format!("`stop` has {} texts and may have {MAX_STOP}", stop.len()));
        }
        match stop.iter().find(|text| text.is_empty() || text.len() > MAX_STOP_BYTES) {
            Some(text) => Err(format!(
                "`stop` has a text of {} bytes, which must be 1 to {MAX_STOP_BYTES}",
                text.len()
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_file_is_read_for_what_concerns_sampling() {
        let json = r#"{"bos_token_id": 1, "do_sample": true, "eos_token_id": [2, 3], "top_k": 20,
                       "temperature": 0.6, "top_p": 0.95, "max_length": 20, "typical_p": null}"#;

        let config = GenerationConfig::read(json).unwrap();

        let expected = GenerationConfig {
            temperature: Some(0.6),
            top_k: Some(20),
            top_p: Some(0.95),
            ..GenerationConfig::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn what_is_typed_goes_before_what_the_model_says() {
        let typed = GenerationConfig::parse(r#"{"temperature": 0, "max_tokens": 9}"#).unwrap();
        let own = GenerationConfig::parse(r#"{"temperature": 0.6, "top_p": 0.9}"#).unwrap();

        let both = typed.over(own);

        assert_eq!((both.temperature, both.top_p), (Some(0.0), Some(0.9)));
        assert_eq!(both.max_new_tokens, Some(9));
    }

    #[test]
    fn what_no_request_could_say_is_refused_by_name() {
        for (json, said) in [
            (r#"{"temperature": 3}"#, "`temperature` is 3 and must be from 0 to 2"),
            (r#"{"top_p": 0}"#, "`top_p` is 0 and must be above 0 to 1"),
            (r#"{"top_k": 5000000000}"#, "`top_k`"),
            (r#"{"max_new_tokens": 0}"#, "`max_new_tokens`"),
            (r#"{"stop": ["a", "b", "c", "d", "e"]}"#, "`stop` has 5 texts"),
            (r#"{"stop": [""]}"#, "`stop` has a text of 0 bytes"),
            (r#"{"temprature": 1}"#, "`temprature` is unknown"),
            (r#"{"temperature": "hot"}"#, "invalid type"),
            ("[]", "invalid type"),
        ] {
            let error = GenerationConfig::parse(json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }
}
