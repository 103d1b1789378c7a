//! Which algorithms of matrix products were fastest, as text that outlives the process.
//!
//! An algorithm is eight words that mean something to one version of the library, and was fastest on one
//! kind of device: both are part of what it is found by, so one text serves several.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// An algorithm, as cuBLASLt wants it kept.
pub(super) type Words = [u64; 8];

/// The text's first line.
const HEADER: &str = "sconce: the fastest algorithms of matrix products, 1";

/// More are not kept: a model has some hundred.
const MAX_ALGORITHMS: usize = 1 << 16;

/// The algorithms, by device and shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuned {
    algorithms: BTreeMap<(String, String), Words>,
    num_found: usize,
    num_timed: usize,
}

/// Why a text is none of algorithms.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not of a list of algorithms")]
pub struct NotTuned {
    /// From 1.
    pub line: usize,
}

impl Tuned {
    /// Reads what [`Self::to_text`] wrote. An empty text has none.
    pub fn parse(text: &str) -> Result<Self, NotTuned> {
        let mut lines = (1..).zip(text.lines());
        match lines.next() {
            None => return Ok(Self::default()),
            Some((_, HEADER)) => {}
            Some((line, _)) => return Err(NotTuned { line }),
        }
        let algorithms = lines.map(|(line, text)| algorithm(text).ok_or(NotTuned { line }));
        Ok(Self { algorithms: algorithms.collect::<Result<_, _>>()?, ..Self::default() })
    }

    /// A line for each.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for ((device, shape), words) in &self.algorithms {
            let words = words.map(|word| format!("{word:016x}")).join(" ");
            // A string takes what is written to it.
            let _ = writeln!(text, "{device}\t{shape}\t{words}");
        }
        text
    }

    /// How many were of use.
    pub fn num_found(&self) -> usize {
        self.num_found
    }

    /// How many are new.
    pub fn num_timed(&self) -> usize {
        self.num_timed
    }

    pub(super) fn find(&self, device: &str, shape: &str) -> Option<Words> {
        self.algorithms.get(&(plain(device), plain(shape))).copied()
    }

    /// One was of use.
    pub(super) fn found(&mut self) {
        self.num_found += 1;
    }

    pub(super) fn insert(&mut self, device: &str, shape: &str, words: Words) {
        self.num_timed += 1;
        if self.algorithms.len() < MAX_ALGORITHMS {
            self.algorithms.insert((plain(device), plain(shape)), words);
        }
    }
}

fn algorithm(line: &str) -> Option<((String, String), Words)> {
    let mut fields = line.split('\t');
    let (device, shape, words) = (fields.next()?, fields.next()?, fields.next()?);
    let words: Option<Vec<u64>> =
        words.split(' ').map(|word| u64::from_str_radix(word, 16).ok()).collect();
    let words = words?.try_into().ok()?;
    fields.next().is_none().then(|| ((device.to_owned(), shape.to_owned()), words))
}

/// Without what separates.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_for_its_device_alone() {
        let mut tuned = Tuned::default();
        tuned.insert("H100\tSXM", "16x64", [1, 2, 3, 4, 5, 6, 7, u64::MAX]);
        tuned.insert("H200", "16x64", [9; 8]);

        let read = Tuned::parse(&tuned.to_text()).unwrap();

        assert_eq!(read.find("H100\tSXM", "16x64"), Some([1, 2, 3, 4, 5, 6, 7, u64::MAX]));
        assert_eq!(read.find("H200", "16x64"), Some([9; 8]));
        assert_eq!(read.find("H200", "16x65"), None);
        assert_eq!(read.find("B200", "16x64"), None);
        assert_eq!((read.num_timed(), tuned.num_timed()), (0, 2));
    }

    #[test]
    fn other_texts_are_refused_by_their_line() {
        let ok = format!("{HEADER}\na\tb\t{}\n", ["0f"; 8].join(" "));
        assert!(Tuned::parse(&ok).is_ok());
        assert_eq!(Tuned::parse(""), Ok(Tuned::default()));

        for (text, line) in [
            ("{}", 1),
            (&*format!("{HEADER}\na\tb\t1 2 3"), 2),
            (&format!("{ok}a\tb"), 3),
            (&format!("{HEADER}\na\tb\t{}\tc", ["0f"; 8].join(" ")), 2),
            (&format!("{HEADER}\na\tb\t{}", ["xy"; 8].join(" ")), 2),
        ] {
            assert_eq!(Tuned::parse(text), Err(NotTuned { line }), "{text}");
        }
    }
}
