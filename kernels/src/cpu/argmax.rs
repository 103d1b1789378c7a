//! The greatest of a token's products, found while threads compute them in parts.
//!
//! The greatest of keys is the same in whatever order they come, so that no thread waits for
//! another: a key has the number in its upper half, so that keys are in the order of the numbers,
//! and the row in its lower half, so that of equal numbers the first is the greatest.

use std::sync::atomic::{AtomicU64, Ordering};

/// Of one token: whether the row of its greatest product is wanted, and which that is.
#[derive(Debug)]
pub struct Argmax {
    is_wanted: bool,
    /// 0 before the first number above negative infinity.
    key: AtomicU64,
}

impl Argmax {
    /// Of a token whose products are all wanted or, where `is_wanted`, the greatest's row alone.
    pub fn new(is_wanted: bool) -> Self {
        Self { is_wanted, key: AtomicU64::new(0) }
    }

    /// Whether it takes the place of the products.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// The row of the greatest product, of equal ones the first. `None` when none is above negative
    /// infinity; NaN counts for nothing.
    pub fn row(&self) -> Option<u32> {
        match self.key.load(Ordering::Relaxed) {
            0 => None,
            key => Some(!(key as u32)),
        }
    }

    /// Takes the products of the rows from `first` on into account.
    pub(super) fn offer(&self, first: usize, products: &[f32]) {
        let greatest = number(self.key.load(Ordering::Relaxed));
        // Without a branch for each: nearly always there is none.
        if !products.iter().fold(false, |any, product| any | (*product >= greatest)) {
            return;
        }
        let keys = (first as u32..).zip(products).map(|(row, product)| key(*product, row));
        self.key.fetch_max(keys.max().unwrap_or(0), Ordering::Relaxed);
    }
}

const SIGN: u32 = 1 << 31;

fn key(number: f32, row: u32) -> u64 {
    if number.is_nan() || number == f32::NEG_INFINITY {
        return 0;
    }
    // Of the zeros, none is greater.
    let bits = (number + 0.0).to_bits();
    let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    u64::from(ordered) << 32 | u64::from(!row)
}

fn number(key: u64) -> f32 {
    match (key >> 32) as u32 {
        0 => f32::NEG_INFINITY,
        ordered if ordered & SIGN == 0 => f32::from_bits(!ordered),
        ordered => f32::from_bits(ordered & !SIGN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row_of(products: &[f32], in_turn: impl Iterator<Item = usize>) -> Option<u32> {
        let argmax = Argmax::new(true);
        in_turn.for_each(|i| argmax.offer(2 * i, &products[2 * i..][..2]));
        argmax.row()
    }

    #[test]
    fn the_first_of_the_greatest_is_found_in_any_order() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let cases: [(&[f32], Option<u32>); 7] = [
            (&[1.0, 3.0, 2.0, 3.0], Some(1)),
            (&[-3.0, -1.5, -1.0, -1.0], Some(2)),
            (&[-0.0, 0.0, 0.0, -0.0], Some(0)),
            (&[nan, -5.0, nan, -6.0], Some(1)),
            (&[-inf, nan, -inf, nan], None),
            (&[1.0, inf, inf, nan], Some(1)),
            (&[f32::MIN, -inf, -f32::MIN_POSITIVE, 0.0], Some(3)),
        ];
        for (products, expected) in cases {
            assert_eq!(row_of(products, [0, 1].into_iter()), expected, "{products:?}");
            assert_eq!(row_of(products, [1, 0].into_iter()), expected, "{products:?}");
        }
    }
}
