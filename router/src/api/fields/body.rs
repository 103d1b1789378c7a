//! A request's body, cut into the fields that the table knows.
//!
//! The body is scanned once, without building values: each known field keeps its JSON text, which
//! is then read as the type it should have. That gives every error the full path of what is wrong.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::strict::Strict;
use super::{Door, Field, Kind, Treatment, find};
use crate::error::ApiError;
use crate::validate::number::Wide;

/// Deepest nesting of a body. serde_json has the same limit, but not for what it skips.
const MAX_DEPTH: usize = 128;

/// The known fields of one request body.
pub(crate) struct Fields<'a> {
    door: Door,
    values: Vec<(&'static Field, &'a str)>,
}

impl<'a> Fields<'a> {
    /// Reads the body of a request to `door`. Fields that are ignored are checked, fields that are
    /// refused are refused.
    pub(crate) fn read(door: Door, body: &'a [u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(body).map_err(|error| {
            let at = error.valid_up_to();
            ApiError::malformed(format!("the body is not valid UTF-8 at byte {at}"))
        })?;
        check_depth(text)?;
        let mut json = serde_json::Deserializer::from_str(text);
        let values = de::Deserializer::deserialize_map(&mut json, Scan(door))
            .and_then(|values| json.end().map(|()| values))
            .map_err(|error| ApiError::malformed(format!("the body is not JSON: {error}")))?;
        let fields = Self { door, values };
        fields.check()?;
        Ok(fields)
    }

    fn check(&self) -> Result<(), ApiError> {
        for (i, (field, raw)) in self.values.iter().enumerate() {
            if self.values[..i].iter().any(|(other, _)| other.name == field.name) {
                let message = format!("`{}` is given more than once", field.name);
                return Err(ApiError::invalid(field.name, "duplicate_parameter", message));
            }
            match field.treatment {
                Treatment::Used => {}
                Treatment::Ignored => self.check_ignored(field)?,
                Treatment::Refused(neutral) => check_refused(field, neutral, raw)?,
            }
        }
        Ok(())
    }

    fn check_ignored(&self, field: &Field) -> Result<(), ApiError> {
        match field.kind {
            Kind::Boolean => self.boolean(field.name).map(drop),
            Kind::Integer { .. } => self.integer(field.name).map(drop),
            Kind::Number { .. } => self.number(field.name).map(drop),
            Kind::Text { .. } | Kind::OneOf(_) => self.text(field.name).map(drop),
            Kind::Metadata => self.metadata(field.name).map(drop),
            Kind::Own(_) => Ok(()),
        }
    }

    fn raw(&self, name: &str) -> Option<&'a str> {
        debug_assert!(find(self.door, name).is_some(), "`{name}` is not in the table");
        let (_, raw) = self.values.iter().find(|(field, _)| field.name == name)?;
        (*raw != "null").then_some(*raw)
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        find(self.door, name).map(|field| field.kind)
    }

    /// A field of a type of its own.
    pub(crate) fn parse<T: Deserialize<'a>>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, ApiError> {
        self.raw(name).map(|raw| parse(name, raw)).transpose()
    }

    /// A field that must be there.
    pub(crate) fn required<T>(name: &'static str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| missing(name))
    }

    /// A boolean.
    pub(crate) fn boolean(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        self.parse(name)
    }

    /// An integer in the range of the table.
    pub(crate) fn integer(&self, name: &'static str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.parse::<Wide>(name)? else { return Ok(None) };
        match self.kind(name) {
            Some(Kind::Integer { min, max }) => value.within(name, min, max).map(Some),
            _ => Err(ApiError::Internal),
        }
    }

    /// A count: an integer whose range in the table is that of `u32`.
    pub(crate) fn count(&self, name: &'static str) -> Result<Option<u32>, ApiError> {
        let value = self.integer(name)?;
        value.map(|value| u32::try_from(value).map_err(|_| ApiError::Internal)).transpose()
    }

    /// A number in the range of the table.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.parse::<f64>(name)? else { return Ok(None) };
        match self.kind(name) {
            Some(Kind::Number { min, max }) if value < min => {
                Err(out_of_range(name, value, "decimal_below_min_value", min, max))
            }
            Some(Kind::Number { min, max }) if value > max => {
                Err(out_of_range(name, value, "decimal_above_max_value", min, max))
            }
            // The ranges of the table fit an f32, and JSON has neither NaN nor infinities.
            Some(Kind::Number { .. }) => Ok(Some(value as f32)),
            _ => Err(ApiError::Internal),
        }
    }

    /// A number above 0, in the range of the table.
    pub(crate) fn fraction(&self, name: &'static str) -> Result<Option<f32>, ApiError> {
        match self.number(name)? {
            // Also what is above 0 in f64 and rounds to 0 in f32.
            Some(value) if value <= 0.0 => {
                let message = format!("`{name}` must be above 0");
                Err(ApiError::invalid(name, "decimal_below_min_value", message))
            }
            value => Ok(value),
        }
    }

    /// A text within the limit of the table.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>, ApiError> {
        let Some(text) = self.parse::<String>(name)? else { return Ok(None) };
        match self.kind(name) {
            Some(Kind::Text { max }) => {
                check_length(name, &text, max)?;
                Ok(Some(text))
            }
            Some(Kind::OneOf(words)) if words.contains(&text.as_str()) => Ok(Some(text)),
            Some(Kind::OneOf(words)) => {
                let message = format!("`{name}` must be one of: {}", words.join(", "));
                Err(ApiError::invalid(name, "invalid_value", message))
            }
            _ => Err(ApiError::Internal),
        }
    }

    /// Whom the request is for, in any of the fields that say so.
    pub(crate) fn user(&self) -> Result<Option<String>, ApiError> {
        let mut user = None;
        for name in ["safety_identifier", "user", "prompt_cache_key"] {
            if find(self.door, name).is_some() {
                // Each is checked, the first one counts.
                user = user.or(self.text(name)?);
            }
        }
        Ok(user)
    }

    /// Pairs of texts, within OpenAI's limits.
    pub(crate) fn metadata(
        &self,
        name: &'static str,
    ) -> Result<BTreeMap<String, String>, ApiError> {
        let pairs: BTreeMap<String, String> = self.parse(name)?.unwrap_or_default();
        if pairs.len() > 16 {
            let message = format!("`{name}` has {} pairs and may have at most 16", pairs.len());
            return Err(ApiError::invalid(name, "object_above_max_properties", message));
        }
        for (key, value) in &pairs {
            check_length(name, key, 64)?;
            check_length(name, value, 512)?;
        }
        Ok(pairs)
    }
}

/// The error of a parameter that is not there.
pub(crate) fn missing(param: &str) -> ApiError {
    let message = format!("`{param}` is required");
    ApiError::invalid(param, "missing_required_parameter", message)
}

fn check_length(name: &str, text: &str, max: usize) -> Result<(), ApiError> {
    let num_chars = text.chars().count();
    if num_chars <= max {
        return Ok(());
    }
    let message = format!("`{name}` has {num_chars} characters and may have at most {max}");
    Err(ApiError::invalid(name, "string_above_max_length", message))
}

fn out_of_range(name: &str, value: f64, code: &'static str, min: f64, max: f64) -> ApiError {
    let message = format!("`{name}` is {value} and must be from {min} to {max}");
    ApiError::invalid(name, code, message)
}

fn parse<'a, T: Deserialize<'a>>(name: &str, raw: &'a str) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_str(raw);
    serde_path_to_error::deserialize(Strict(&mut json)).map_err(|error| {
        let path = error.path().to_string();
        let param = match path.as_str() {
            "." => name.to_owned(),
            path if path.starts_with('[') => format!("{name}{path}"),
            path => format!("{name}.{path}"),
        };
        mistyped(&param, &error.into_inner())
    })
}

/// What is wrong with a parameter's JSON.
pub(crate) fn mistyped(param: &str, error: &serde_json::Error) -> ApiError {
    let code = if error.is_data() { "invalid_type" } else { "invalid_json" };
    let text = error.to_string();
    // The position is one in the field, not in the body.
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    ApiError::invalid(param, code, format!("`{param}`: {text}"))
}

fn check_refused(field: &Field, neutral: &[&str], raw: &str) -> Result<(), ApiError> {
    let refuse = || {
        let mut message = format!("`{}` is not supported", field.name);
        if !neutral.is_empty() {
            message.push_str("; it may be left out, null or ");
            message.push_str(&neutral.join(" or "));
        }
        ApiError::invalid(field.name, "unsupported_parameter", message)
    };
    // A neutral value is short; a long one is never built.
    const LONGEST: usize = 64;
    if raw.len() > LONGEST {
        return Err(refuse());
    }
    let value: Value = parse(field.name, raw)?;
    let is_neutral = |text: &&str| serde_json::from_str::<Value>(text).is_ok_and(|v| v == value);
    if value.is_null() || neutral.iter().any(is_neutral) { Ok(()) } else { Err(refuse()) }
}

fn check_depth(text: &str) -> Result<(), ApiError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            let message = format!("the body is nested more than {MAX_DEPTH} levels deep");
            return Err(ApiError::malformed(message));
        }
    }
    Ok(())
}

/// Picks the known fields out of an object.
struct Scan(Door);

impl<'de> Visitor<'de> for Scan {
    type Value = Vec<(&'static Field, &'de str)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values: Self::Value = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            match find(self.0, &name) {
                // One duplicate is enough for the error; a million would cost a million compares.
                Some(field) if values.len() < 2 * super::FIELDS.len() => {
                    values.push((field, map.next_value::<&RawValue>()?.get()));
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &[u8]) -> (String, Option<String>, &'static str) {
        match Fields::read(Door::Chat, body).err() {
            Some(ApiError::Invalid { message, param, code }) => (message, param, code),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_that_is_no_json_object_says_where_it_breaks() {
        for body in [&b""[..], b"null", b"[]", b"\"x\"", b"{", b"{\"a\":1}x", b"{\"a\":1,}"] {
            assert_eq!(error(body).2, "invalid_json", "{:?}", String::from_utf8_lossy(body));
        }
        assert!(error(b"{\"a\": \xff}").0.ends_with("byte 6"));
    }

    #[test]
    fn nesting_is_limited_even_where_it_is_ignored() {
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(error(deep.as_bytes()).2, "invalid_json");

        let brackets_in_text = format!("{{\"x\":\"\\\"{}\"}}", "[".repeat(1000));
        assert!(Fields::read(Door::Chat, brackets_in_text.as_bytes()).is_ok());
    }

    #[test]
    fn a_known_field_may_be_given_once() {
        assert_eq!(error(br#"{"n":1,"n":2}"#).2, "duplicate_parameter");
        assert!(Fields::read(Door::Chat, br#"{"x":1,"x":2}"#).is_ok());
    }

    #[test]
    fn a_million_keys_are_no_burden() {
        let keys: String = (0..1_000_000).map(|i| format!("\"{i}\":0,")).collect();
        assert!(Fields::read(Door::Chat, format!("{{{keys}\"n\":1}}").as_bytes()).is_ok());

        let twice = format!("{{{}\"n\":1}}", "\"n\":1,".repeat(100_000));
        assert_eq!(error(twice.as_bytes()).2, "duplicate_parameter");
    }

    #[test]
    fn what_is_refused_may_be_neutral() {
        for body in [
            &br#"{"documents":null}"#[..],
            br#"{"documents":[ ]}"#,
            br#"{"prompt_cache_options":{ }}"#,
            br#"{"modalities":["text"]}"#,
        ] {
            assert!(Fields::read(Door::Chat, body).is_ok());
        }
        let (_, param, code) = error(br#"{"documents":[{"text":"a"}]}"#);
        assert_eq!((param.as_deref(), code), (Some("documents"), "unsupported_parameter"));
    }

    #[test]
    fn what_is_ignored_has_its_type_checked() {
        for (body, param) in [
            (r#"{"prompt_cache_retention":7}"#, "prompt_cache_retention"),
            (r#"{"metadata":{"a":1}}"#, "metadata.a"),
            (r#"{"metadata":[]}"#, "metadata"),
            (r#"{"store":"yes"}"#, "store"),
            (r#"{"service_tier":"gold"}"#, "service_tier"),
            (r#"{"prompt_cache_retention":"\ud800"}"#, "prompt_cache_retention"),
        ] {
            assert_eq!(error(body.as_bytes()).1.as_deref(), Some(param));
        }
    }
}
