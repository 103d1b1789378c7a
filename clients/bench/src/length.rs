//! How long prompts and answers are: a number, or a distribution of numbers.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand_distr::{Distribution, Exp, LogNormal, Normal};

/// Longest prompt or answer that is asked for, in tokens.
const MAX_TOKENS: u32 = 1 << 22;

/// A distribution of numbers of tokens, each at least 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Length {
    Fixed(u32),
    /// Each from the first to the last is as likely.
    Uniform(u32, u32),
    Normal {
        mean: f64,
        std: f64,
    },
    /// By the mean and standard deviation of the numbers themselves, not of their logarithms.
    LogNormal {
        mean: f64,
        std: f64,
    },
    Exponential {
        mean: f64,
    },
}

impl Length {
    pub(crate) fn sample(self, rng: &mut impl Rng) -> u32 {
        let drawn = match self {
            Self::Fixed(tokens) => return tokens,
            Self::Uniform(low, high) => return rng.random_range(low..=high),
            Self::Normal { mean, std } => Normal::new(mean, std).map(|d| d.sample(rng)).ok(),
            Self::LogNormal { mean, std } => {
                let variance = (1.0 + (std / mean).powi(2)).ln();
                let mu = mean.ln() - variance / 2.0;
                LogNormal::new(mu, variance.sqrt()).map(|d| d.sample(rng)).ok()
            }
            Self::Exponential { mean } => Exp::new(1.0 / mean).map(|d| d.sample(rng)).ok(),
        };
        // Parameters are checked when they are read; a draw may be anything.
        drawn.unwrap_or(1.0).round().clamp(1.0, f64::from(MAX_TOKENS)) as u32
    }
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(':');
        let kind = words.next().unwrap_or("");
        let numbers: Vec<f64> = words
            .map(|word| {
                let number = word.parse::<f64>().ok();
                number.filter(|n| (0.0..=f64::from(MAX_TOKENS)).contains(n))
            })
            .collect::<Option<_>>()
            .ok_or_else(|| format!("`{text}`: numbers go from 0 to {MAX_TOKENS}"))?;
        let is_count = |n: f64| n >= 1.0 && n.fract() == 0.0;
        match (kind, &numbers[..]) {
            ("uniform", &[low, high]) if is_count(low) && is_count(high) && low <= high => {
                Ok(Self::Uniform(low as u32, high as u32))
            }
            ("normal", &[mean, std]) if mean >= 1.0 => Ok(Self::Normal { mean, std }),
            ("lognormal", &[mean, std]) if mean >= 1.0 => Ok(Self::LogNormal { mean, std }),
            ("exponential", &[mean]) if mean >= 1.0 => Ok(Self::Exponential { mean }),
            (number, []) => match number.parse() {
                Ok(tokens) if (1..=MAX_TOKENS).contains(&tokens) => Ok(Self::Fixed(tokens)),
                _ => Err(Self::hint(text)),
            },
            _ => Err(Self::hint(text)),
        }
    }
}

impl Length {
    fn hint(text: &str) -> String {
        format!(
            "`{text}` is no length: use 128, uniform:LOW:HIGH, normal:MEAN:STD, lognormal:MEAN:STD \
             or exponential:MEAN"
        )
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(f, "{tokens}"),
            Self::Uniform(low, high) => write!(f, "uniform:{low}:{high}"),
            Self::Normal { mean, std } => write!(f, "normal:{mean}:{std}"),
            Self::LogNormal { mean, std } => write!(f, "lognormal:{mean}:{std}"),
            Self::Exponential { mean } => write!(f, "exponential:{mean}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn what_is_typed_is_read_and_shown() {
        for text in ["128", "uniform:1:9", "normal:10:2", "lognormal:100:50", "exponential:64"] {
            assert_eq!(text.parse::<Length>().unwrap().to_string(), text);
        }
        for text in
            ["", "0", "-1", "1.5", "uniform:9:1", "uniform:1", "normal:0:1", "zipf:2", "5000000"]
        {
            assert!(text.parse::<Length>().is_err(), "{text}");
        }
    }

    #[test]
    fn draws_have_the_mean_that_was_asked_for() {
        let mut rng = StdRng::seed_from_u64(1);
        for text in ["uniform:50:150", "normal:100:20", "lognormal:100:60", "exponential:100"] {
            let length: Length = text.parse().unwrap();
            let drawn: Vec<_> = (0..20_000).map(|_| f64::from(length.sample(&mut rng))).collect();
            let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
            assert!((mean - 100.0).abs() < 3.0, "{text}: {mean}");
            assert!(drawn.iter().all(|n| *n >= 1.0));
        }
    }
}
