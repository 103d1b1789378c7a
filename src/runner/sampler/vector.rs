//! Loops over a vocabulary, written so that the compiler vectorizes them.

const LANES: usize = 16;

/// Replaces each number by its exponential; relative error under 4e-7 for `x` in `[-87, 0]`, 0
/// below it and for NaN. Numbers must not be positive.
pub(super) fn exp(values: &mut [f32]) {
    for value in values {
        *value = exp_of(*value);
    }
}

/// `2^n e^r` with `x = n ln 2 + r`, `|r| <= ln 2 / 2`, and a Taylor polynomial for `e^r`.
fn exp_of(x: f32) -> f32 {
    /// Adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let whole = rounded - ROUND;
    let rest = (clamped - whole * LN2_HIGH) - whole * LN2_LOW;
    let mut power = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = power * rest + coefficient;
    }
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x > -87.0 { power * scale } else { 0.0 }
}

/// Sums in double precision.
pub(super) fn sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value)).sum::<f64>()
}

/// Sums in double precision the weights whose logits are at least `cutoff`.
pub(super) fn sum_of_likely(logits: &[f32], weights: &[f32], cutoff: f32) -> f64 {
    let mut lanes = [0.0f64; LANES];
    for (logits, weights) in logits.chunks(LANES).zip(weights.chunks(LANES)) {
        for ((lane, &logit), &weight) in lanes.iter_mut().zip(logits).zip(weights) {
            *lane += f64::from(if logit >= cutoff { weight } else { 0.0 });
        }
    }
    lanes.iter().sum()
}

/// Returns the greatest number; negative infinity when there is none. NaN counts for nothing.
pub(super) fn max(values: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, value);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, greater)
}

/// Returns where the greatest number is, the first of equal ones. `None` when nothing is above
/// negative infinity.
pub(super) fn argmax(values: &[f32]) -> Option<u32> {
    let max = max(values);
    if max == f32::NEG_INFINITY {
        return None;
    }
    values.iter().position(|&value| value == max).map(|i| i as u32)
}

/// Returns the logarithm of the sum of exponentials; `scratch` is overwritten. Negative infinity
/// when nothing is above it; NaN counts for nothing.
pub(super) fn log_sum_exp(values: &[f32], scratch: &mut Vec<f32>) -> f64 {
    let max = max(values).min(f32::MAX);
    if max == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    scratch.clear();
    scratch.extend(values.iter().map(|value| (value - max).min(0.0)));
    for (shifted, value) in scratch.iter_mut().zip(values) {
        *shifted = if value.is_nan() { f32::NEG_INFINITY } else { *shifted };
    }
    exp(scratch);
    f64::from(max) + sum(scratch).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_float_precision() {
        for step in 0..=870_000 {
            let x = -(step as f32) * 1e-4;
            let mut value = [x];
            exp(&mut value);
            let truth = f64::from(x).exp();
            let error = (f64::from(value[0]) - truth).abs() / truth;
            assert!(error < 4e-7 || (x <= -87.0 && value[0] == 0.0), "exp({x}): {error}");
        }
    }

    #[test]
    fn exp_of_far_negative_numbers_is_zero() {
        let mut values = [-87.1, -1e30, f32::NEG_INFINITY, 0.0];
        exp(&mut values);
        assert_eq!(values, [0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_skips_nan() {
        let mut values = vec![f32::NAN; 40];
        assert_eq!(argmax(&values), None);
        values[37] = -3.0;
        values[39] = -3.0;
        assert_eq!(argmax(&values), Some(37));
        values[20] = f32::INFINITY;
        assert_eq!(argmax(&values), Some(20));
    }

    #[test]
    fn log_sum_exp_survives_what_is_not_a_number() {
        let mut scratch = Vec::new();
        let finite = log_sum_exp(&[1.0, f32::NAN, f32::NEG_INFINITY, 2.0], &mut scratch);
        assert!((finite - (1f64.exp() + 2f64.exp()).ln()).abs() < 1e-6);
        assert_eq!(log_sum_exp(&[f32::NAN; 3], &mut scratch), f64::NEG_INFINITY);
        assert!(log_sum_exp(&[f32::INFINITY, 0.0], &mut scratch).is_finite());
    }
}
