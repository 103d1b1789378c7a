//! Frequencies of rotary position embeddings (Su et al., 2021), and their extensions to longer
//! contexts.

use std::f64::consts::PI;

use crate::models::config::{RopeConfig, RopeScaling};

/// What a rotary embedding is computed from.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// `[dim / 2]` radians per position.
    pub inv_freq: Vec<f32>,
    /// Multiplies cosines and sines.
    pub magnitude: f32,
}

impl Frequencies {
    /// Computes them as Hugging Face's `modeling_rope_utils` defines them.
    ///
    /// [`RopeScaling::Factors`] must have `dim / 2` factors; missing ones count as 1.
    pub fn new(config: &RopeConfig) -> Self {
        let theta = f64::from(config.theta);
        let base = (0..config.dim / 2).map(|i| theta.powf(-2.0 * i as f64 / config.dim as f64));
        let inv_freq: Vec<f64> = match &config.scaling {
            RopeScaling::None => base.collect(),
            RopeScaling::Linear { factor } => base.map(|freq| freq / f64::from(*factor)).collect(),
            RopeScaling::Llama3 { .. } => base.map(|freq| llama3(freq, &config.scaling)).collect(),
            RopeScaling::Yarn { .. } => yarn(&base.collect::<Vec<_>>(), config),
            RopeScaling::Factors(factors) => base
                .enumerate()
                .map(|(i, freq)| freq / factors.get(i).map_or(1.0, |&factor| f64::from(factor)))
                .collect(),
        };
        Self {
            inv_freq: inv_freq.into_iter().map(|freq| freq as f32).collect(),
            magnitude: magnitude(&config.scaling),
        }
    }
}

/// YaRN's "attention factor"; 1 for all others.
fn magnitude(scaling: &RopeScaling) -> f32 {
    match scaling {
        RopeScaling::Yarn { attention_factor: Some(given), .. } => *given,
        RopeScaling::Yarn { factor, attention_factor: None, .. } if *factor > 1.0 => {
            (0.1 * f64::from(*factor).ln() + 1.0) as f32
        }
        RopeScaling::Yarn { .. }
        | RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Factors(_) => 1.0,
    }
}

/// Divides low frequencies, keeps high ones, and is smooth between.
fn llama3(freq: f64, scaling: &RopeScaling) -> f64 {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    } = *scaling
    else {
        return freq;
    };
    let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
    let rotations = original_max_position_embeddings as f64 * freq / (2.0 * PI);
    let divided = freq / f64::from(factor);
    if rotations < low {
        divided
    } else if rotations > high {
        freq
    } else {
        let kept = (rotations - low) / (high - low);
        kept * freq + (1.0 - kept) * divided
    }
}

/// Interpolates what rotates less than `beta_slow` times within the original context, keeps what
/// rotates more than `beta_fast` times, and blends linearly over the dimensions between.
fn yarn(base: &[f64], config: &RopeConfig) -> Vec<f64> {
    let RopeScaling::Yarn {
        factor, original_max_position_embeddings, beta_fast, beta_slow, ..
    } = config.scaling
    else {
        return base.to_vec();
    };
    let dim = config.dim as f64;
    let dimension_of = |rotations: f32| {
        let context = original_max_position_embeddings as f64;
        dim * (context / (f64::from(rotations) * 2.0 * PI)).ln()
            / (2.0 * f64::from(config.theta).ln())
    };
    let low = dimension_of(beta_fast).floor().max(0.0);
    let high = dimension_of(beta_slow).ceil().min(dim - 1.0);
    let width = if low == high { 0.001 } else { high - low };
    (base.iter().enumerate())
        .map(|(i, &freq)| {
            let interpolated = ((i as f64 - low) / width).clamp(0.0, 1.0);
            freq / f64::from(factor) * interpolated + freq * (1.0 - interpolated)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::config::RopeStyle;

    fn config(scaling: RopeScaling) -> RopeConfig {
        RopeConfig { theta: 10_000.0, dim: 8, style: RopeStyle::Half, scaling }
    }

    fn assert_close(given: &[f32], expected: &[f64]) {
        assert_eq!(given.len(), expected.len());
        for (given, expected) in given.iter().zip(expected) {
            assert!((f64::from(*given) / expected - 1.0).abs() < 1e-6, "{given} {expected}");
        }
    }

    #[test]
    fn unscaled_frequencies_are_powers_of_theta() {
        let frequencies = Frequencies::new(&config(RopeScaling::None));

        assert_close(&frequencies.inv_freq, &[1.0, 0.1, 0.01, 0.001]);
        assert_eq!(frequencies.magnitude, 1.0);
    }

    #[test]
    fn linear_scaling_and_factors_divide() {
        let linear = Frequencies::new(&config(RopeScaling::Linear { factor: 4.0 }));
        let factors = Frequencies::new(&config(RopeScaling::Factors(vec![1.0, 2.0, 4.0, 8.0])));

        assert_close(&linear.inv_freq, &[0.25, 0.025, 0.0025, 0.00025]);
        assert_close(&factors.inv_freq, &[1.0, 0.05, 0.0025, 0.000_125]);
    }

    /// What transformers 5.23 computes, `head_dim` 16.
    #[test]
    fn llama3_scaling_equals_transformers() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let frequencies =
            Frequencies::new(&RopeConfig { theta: 500_000.0, dim: 16, ..config(scaling) });

        assert_close(
            &frequencies.inv_freq,
            &[
                1.0,
                0.193_922_758,
                0.037_606_030_7,
                0.007_292_665_08,
                0.000_524_846_022,
                3.428_102_35e-5,
                6.647_869_67e-6,
                1.289_173_16e-6,
            ],
        );
        assert_eq!(frequencies.magnitude, 1.0);
    }

    /// What transformers 5.23 computes, `head_dim` 16.
    #[test]
    fn yarn_equals_transformers() {
        let defaults = RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 32_768,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
        };
        let defaults = Frequencies::new(&RopeConfig { theta: 1e6, dim: 16, ..config(defaults) });
        let given = RopeScaling::Yarn {
            factor: 16.0,
            original_max_position_embeddings: 4096,
            beta_fast: 20.0,
            beta_slow: 2.0,
            attention_factor: Some(1.25),
        };
        let given = Frequencies::new(&RopeConfig { dim: 16, ..config(given) });

        assert_close(
            &defaults.inv_freq,
            &[
                1.0,
                0.177_827_939,
                0.031_622_778_6,
                0.004_217_559_94,
                0.000_500_000_024,
                4.445_698_51e-5,
                7.905_693_56e-6,
                1.405_853_37e-6,
            ],
        );
        assert!((defaults.magnitude - 1.138_629_4).abs() < 1e-6);
        assert_close(
            &given.inv_freq,
            &[
                1.0,
                0.316_227_764,
                0.100_000_001,
                0.031_622_778_6,
                0.006_874_999_03,
                0.001_185_854_08,
                6.250_000_3e-5,
                1.976_423_66e-5,
            ],
        );
        assert_eq!(given.magnitude, 1.25);
    }
}
