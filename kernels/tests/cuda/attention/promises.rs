//! What attention promises beyond being near to the reference.

use super::case::{Case, Sequence};
use super::*;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

impl Case {
    /// The output of one row's token.
    fn token<'a>(&self, out: &'a [f32], row: usize, token: usize) -> &'a [f32] {
        let width = self.heads[0] * self.head_dim;
        let before: usize = self.rows[..row].iter().map(|row| row.num_tokens).sum();
        &out[(before + token) * width..][..width]
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_else_is_in_the_batch() {
    for (float, dtype) in all_types() {
        for row in [(300, 1), (513, 3), (20, 40), (254, 12)] {
            let alone = Case { rows: sequences(&[row]), dtype, ..Case::new(float) };
            let mut rows = sequences(&[(0, 1), row, (600, 1), (0, 30), (100, 8)]);
            rows[1].seed = 0;
            let crowd = Case { rows, padding: 3, dtype, ..Case::new(float) };

            let (expected, given) = (alone.run(), crowd.run());

            for token in 0..row.1 {
                let (expected, given) =
                    (alone.token(&expected, 0, token), crowd.token(&given, 1, token));
                assert_eq!(bits(expected), bits(given), "{float:?} {dtype:?} {row:?} {token}");
            }
        }
    }
}

#[test]
fn a_token_has_the_same_bits_with_and_without_drafts() {
    for (float, dtype) in all_types() {
        let drafted = Case { rows: sequences(&[(250, 8)]), dtype, ..Case::new(float) };
        let drafts = drafted.run();
        for token in 0..8 {
            let row = Sequence { seed: 0, num_computed: 250, num_tokens: token + 1 };
            let alone = Case { rows: vec![row], ..drafted.clone() };
            let single = alone.run();
            let (expected, given) =
                (alone.token(&single, 0, token), drafted.token(&drafts, 0, token));
            assert_eq!(bits(expected), bits(given), "{float:?} {dtype:?} {token}");
        }
    }
}

#[test]
fn a_prompt_has_the_same_bits_in_one_piece_and_in_several() {
    for (float, dtype) in all_types() {
        let whole = Case { rows: sequences(&[(0, 150)]), dtype, ..Case::new(float) };
        let expected = whole.run();
        for (num_computed, num_tokens) in [(0, 20), (20, 77), (97, 53)] {
            let piece = Case { rows: sequences(&[(num_computed, num_tokens)]), ..whole.clone() };
            let given = piece.run();
            for token in 0..num_tokens {
                let expected = whole.token(&expected, 0, num_computed + token);
                let given = piece.token(&given, 0, token);
                assert_eq!(
                    bits(expected),
                    bits(given),
                    "{float:?} {dtype:?} {num_computed} {token}"
                );
            }
        }
    }
}

#[test]
fn a_prompts_last_token_is_nearly_what_is_decoded() {
    for (float, dtype) in all_types() {
        let prefill = Case { rows: sequences(&[(291, 9)]), dtype, ..Case::new(float) };
        let decode = Case { rows: sequences(&[(299, 1)]), dtype, ..Case::new(float) };

        let (prefilled, decoded) = (prefill.run(), decode.run());

        let expected: Vec<_> =
            prefill.token(&prefilled, 0, 8).iter().map(|x| f64::from(*x)).collect();
        assert_near(&decoded, &expected, tolerance(float), &format!("{float:?} {dtype:?}"));
    }
}

#[test]
fn the_length_of_chunks_hardly_matters() {
    for float in FLOATS {
        let rows = decodes(&[64, 65, 500, 1100]);
        for chunk in [64, 128, 1024] {
            Case { rows: rows.clone(), chunk, ..Case::new(float) }.check();
        }
        // Ten chunks of 256 are more than there is room for.
        Case { rows, max_chunks: 6, ..Case::new(float) }.check();
    }
}

#[test]
fn a_graph_serves_lengths_that_are_unknown_when_it_is_captured() {
    for float in FLOATS {
        for rows in [decodes(&[1, 40]), decodes(&[700, 300]), sequences(&[(250, 8), (3, 1)])] {
            Case { rows, is_captured: true, max_chunks: 20, ..Case::new(float) }.check();
        }
    }
}

fn all_types() -> Vec<(Float, KvDtype)> {
    let own = FLOATS.map(|float| (float, KvDtype::Float(float)));
    let eight_bits = both([Float::BF16, Float::F16], [KvDtype::Fp8, KvDtype::Int8]);
    own.into_iter().chain(eight_bits).collect()
}
