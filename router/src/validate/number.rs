//! Integers as JSON can write them: wider than any type they end up in.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

use crate::error::ApiError;

/// An integer of any size. What is beyond 128 bits keeps its sign and is out of every range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wide(i128);

impl Wide {
    /// The integer, if it is from `min` to `max`.
    pub(crate) fn within(self, param: &str, min: i64, max: i64) -> Result<i64, ApiError> {
        let (code, limit) = match i64::try_from(self.0) {
            Ok(value) if value >= min && value <= max => return Ok(value),
            _ if self.0 < i128::from(min) => ("integer_below_min_value", format!("at least {min}")),
            _ => ("integer_above_max_value", format!("at most {max}")),
        };
        let message = format!("`{param}` is {} and must be {limit}", self.0);
        Err(ApiError::invalid(param, code, message))
    }

    /// The integer as a token id of a model with logits of this width.
    pub(crate) fn token(self, param: &str, vocab_size: u32) -> Result<u32, ApiError> {
        match u32::try_from(self.0) {
            Ok(token) if token < vocab_size => Ok(token),
            _ => {
                let message = format!(
                    "`{param}` is {}, which is no token: ids are from 0 to {}",
                    self.0,
                    vocab_size.saturating_sub(1)
                );
                Err(ApiError::invalid(param, "invalid_token_id", message))
            }
        }
    }
}

impl From<i64> for Wide {
    fn from(value: i64) -> Self {
        Self(i128::from(value))
    }
}

impl<'de> Deserialize<'de> for Wide {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WideVisitor)
    }
}

struct WideVisitor;

impl Visitor<'_> for WideVisitor {
    type Value = Wide;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_i64<E>(self, value: i64) -> Result<Wide, E> {
        Ok(Wide(i128::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Wide, E> {
        Ok(Wide(i128::from(value)))
    }

    /// Integers of more than 64 bits come as floats; a float with a fraction is no integer, and one
    /// without is not written as one.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Wide, E> {
        const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;
        if value >= TWO_POW_63 {
            Ok(Wide(value as i128))
        } else if value <= -TWO_POW_63 {
            // Rounding must not bring it back into the range of an i64.
            Ok(Wide((value as i128).min(i128::from(i64::MIN) - 1)))
        } else {
            Err(E::invalid_type(Unexpected::Float(value), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<i64> {
        serde_json::from_str::<Wide>(json).ok()?.within("x", -5, 1 << 40).ok()
    }

    #[test]
    fn no_integer_wraps_around() {
        assert_eq!(read("4294967300"), Some(4_294_967_300));
        for json in [
            "2147483648000000",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551620",
            "1000000000000000000000000000000",
            "-1000000000000000000000000000000",
            "1e300",
            "-6",
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn the_ends_of_64_bits_are_exact() {
        let read = |json: &str| {
            let wide = serde_json::from_str::<Wide>(json).unwrap();
            wide.within("x", i64::MIN, i64::MAX).ok()
        };
        assert_eq!(read("9223372036854775807"), Some(i64::MAX));
        assert_eq!(read("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(read("9223372036854775808"), None);
        assert_eq!(read("-9223372036854775809"), None);
    }

    #[test]
    fn a_fraction_is_no_integer() {
        for json in ["1.5", "1.0", "1e2", "\"3\"", "true", "null", "[]", "1e400"] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn a_token_is_below_the_width_of_the_logits() {
        assert_eq!(Wide(9).token("x", 10).ok(), Some(9));
        for id in [10, -1, 1 << 32, i128::MAX] {
            assert!(Wide(id).token("x", 10).is_err(), "{id}");
        }
    }
}
