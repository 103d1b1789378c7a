//! Philox4x32-10, a counter-based generator (Salmon et al., 2011): random bits as a pure function
//! of a key and a counter, so that a stream can be taken up anywhere without replaying it.

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// Returns the 128 random bits at `counter` of the stream that `key` names.
pub(super) fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let (high0, low0) = widening_mul(MULTIPLIERS[0], counter[0]);
        let (high1, low1) = widening_mul(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

/// Returns a number in `[0, 1)` for the token at `position` of completion `index` of a request
/// with `seed`.
pub(super) fn uniform(seed: u64, index: u32, position: u32) -> f64 {
    let key = [seed as u32, (seed >> 32) as u32];
    let [high, low, ..] = philox4x32([position, index, 0, 0], key);
    let bits = (u64::from(high) << 32 | u64::from(low)) >> (u64::BITS - f64::MANTISSA_DIGITS);
    bits as f64 / (1u64 << f64::MANTISSA_DIGITS) as f64
}

fn widening_mul(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123_are_met() {
        let ones = u32::MAX;

        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([ones; 4], [ones; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn draws_fill_the_unit_interval_evenly() {
        let mut buckets = [0u32; 16];

        for position in 0..16_000 {
            let draw = uniform(7, 0, position);
            assert!((0.0..1.0).contains(&draw));
            buckets[(draw * 16.0) as usize] += 1;
        }

        let chi_square: f64 =
            buckets.iter().map(|&count| (f64::from(count) - 1000.0).powi(2) / 1000.0).sum();
        // The 99.9th percentile for 15 degrees of freedom.
        assert!(chi_square < 37.7, "{chi_square}");
    }

    #[test]
    fn seed_index_and_position_each_change_the_draw() {
        let draws = [
            uniform(1, 0, 0),
            uniform(2, 0, 0),
            uniform(1, 1, 0),
            uniform(1, 0, 1),
            uniform(1 << 32, 0, 0),
        ];

        for (i, a) in draws.iter().enumerate() {
            assert!(draws[i + 1..].iter().all(|b| a != b));
        }
    }
}
