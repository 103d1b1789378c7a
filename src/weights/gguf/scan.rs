//! Walks a GGUF header without allocating what it declares, before candle's reader sees it.
//!
//! Bounds every count and length by the file, so that the reader cannot be made to allocate more
//! than a small multiple of the header, and refuses what it would silently lose: names that come
//! twice, strings that are not UTF-8.

use std::collections::HashSet;

/// A longer header has no legitimate cause; the limit of the safetensors format.
pub(super) const MAX_HEADER_BYTES: u64 = 100 << 20;
const MAX_TENSORS: u64 = 1 << 20;
const MAX_METADATA: u64 = 1 << 16;
/// Over all arrays: candle keeps 32 bytes per element. A vocabulary of 262,144 takes 1.3 million.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 23;
const MAX_DIMS: u32 = 4;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Why the bytes are no header.
#[derive(Debug)]
pub(super) enum Failure {
    /// The header goes on after them.
    Incomplete,
    /// They break the format.
    Malformed(String),
    /// A tensor has a type that we have no kernels for.
    UnsupportedType {
        /// The tensor.
        name: String,
        /// ggml's number of the type.
        kind: u32,
    },
}

type Result<T> = std::result::Result<T, Failure>;

fn malformed<T>(reason: impl Into<String>) -> Result<T> {
    Err(Failure::Malformed(reason.into()))
}

/// Checks the header at the start of `bytes` and returns its length without padding.
pub(super) fn scan(bytes: &[u8], file_len: u64) -> Result<usize> {
    let mut scanner = Scanner { bytes, pos: 0, file_len, num_elements: 0 };
    let (num_tensors, num_metadata) = scanner.counts()?;
    let mut keys = HashSet::new();
    for _ in 0..num_metadata {
        let key = scanner.name()?;
        let kind = scanner.u32()?;
        scanner.value(key, kind)?;
        if !keys.insert(key) {
            return malformed(format!("the metadata has {key:?} twice"));
        }
    }
    let mut names = HashSet::new();
    for _ in 0..num_tensors {
        let name = scanner.name()?;
        scanner.tensor(name)?;
        if !names.insert(name) {
            return malformed(format!("it has two tensors {name:?}"));
        }
    }
    Ok(scanner.pos)
}

struct Scanner<'a> {
    bytes: &'a [u8],
    pos: usize,
    file_len: u64,
    num_elements: u64,
}

impl<'a> Scanner<'a> {
    /// Magic and version, then the numbers of tensors and of metadata entries.
    fn counts(&mut self) -> Result<(u64, u64)> {
        let magic = self.take(4)?;
        if magic != b"GGUF" {
            return malformed(format!("it starts with {}, not \"GGUF\"", magic.escape_ascii()));
        }
        let version = self.u32()?;
        if !matches!(version, 2 | 3) {
            let big_endian = matches!(version.swap_bytes(), 2 | 3);
            let hint = if big_endian { " (a big-endian file)" } else { "" };
            return malformed(format!("GGUF version {version}{hint}, supported: 2 and 3"));
        }
        let (num_tensors, num_metadata) = (self.u64()?, self.u64()?);
        // The smallest tensor takes 24 bytes of the header, the smallest entry 13.
        if num_tensors > MAX_TENSORS.min(self.file_len / 24) {
            return malformed(format!("it declares {num_tensors} tensors"));
        }
        if num_metadata > MAX_METADATA.min(self.file_len / 13) {
            return malformed(format!("it declares {num_metadata} metadata entries"));
        }
        Ok((num_tensors, num_metadata))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<()> {
        if key == "general.alignment" {
            return self.alignment(kind);
        }
        match kind {
            STRING => self.string().map(drop),
            ARRAY => self.array(key),
            7 => self.bools(key, 1),
            _ => match scalar_bytes(kind) {
                Some(len) => self.skip(len),
                None => malformed(format!("metadata {key:?} has the unknown type {kind}")),
            },
        }
    }

    fn alignment(&mut self, kind: u32) -> Result<()> {
        let alignment = if kind == 4 { self.u32()? } else { 0 };
        if !alignment.is_power_of_two() || !(8..=65_536).contains(&alignment) {
            return malformed(format!("its alignment is {alignment} (type {kind})"));
        }
        Ok(())
    }

    fn array(&mut self, key: &str) -> Result<()> {
        let kind = self.u32()?;
        let len = self.u64()?;
        self.num_elements = self.num_elements.saturating_add(len);
        if self.num_elements > MAX_ARRAY_ELEMENTS {
            let limit = MAX_ARRAY_ELEMENTS;
            return malformed(format!("with {key:?} the metadata's arrays pass {limit} elements"));
        }
        match kind {
            STRING => (0..len).try_for_each(|_| self.string().map(drop)),
            ARRAY => malformed(format!("metadata {key:?} is an array of arrays")),
            7 => self.bools(key, len),
            _ => match scalar_bytes(kind) {
                Some(bytes) => self.skip(len * bytes),
                None => malformed(format!("metadata {key:?} has elements of unknown type {kind}")),
            },
        }
    }

    fn bools(&mut self, key: &str, len: u64) -> Result<()> {
        match self.take(len)?.iter().find(|&&byte| byte > 1) {
            Some(byte) => malformed(format!("metadata {key:?} has the boolean {byte}")),
            None => Ok(()),
        }
    }

    fn tensor(&mut self, name: &str) -> Result<()> {
        let num_dims = self.u32()?;
        if num_dims == 0 || num_dims > MAX_DIMS {
            return malformed(format!("{name} has {num_dims} dimensions"));
        }
        let mut num_elements = 1u64;
        for _ in 0..num_dims {
            let dim = self.u64()?;
            // No type takes less than a bit an element.
            num_elements = match num_elements.checked_mul(dim) {
                Some(product) if product > 0 && product / 8 <= self.file_len => product,
                _ => return malformed(format!("{name} has the impossible dimension {dim}")),
            };
        }
        let kind = self.u32()?;
        if super::dtype::from_ggml(kind).is_none() {
            return Err(Failure::UnsupportedType { name: name.to_owned(), kind });
        }
        let offset = self.u64()?;
        if offset > self.file_len {
            let len = self.file_len;
            return malformed(format!("{name} starts at {offset}, the file ends at {len}"));
        }
        Ok(())
    }

    /// A string that names something. candle cuts NULs off, which could make two names one.
    fn name(&mut self) -> Result<&'a str> {
        let name = self.string()?;
        if name.is_empty() || name.contains('\0') {
            return malformed(format!("{name:?} is no name"));
        }
        Ok(name)
    }

    fn string(&mut self) -> Result<&'a str> {
        let len = self.u64()?;
        let at = self.pos;
        match std::str::from_utf8(self.take(len)?) {
            Ok(string) => Ok(string),
            Err(_) => malformed(format!("the string at byte {at} is not UTF-8")),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }

    fn u64(&mut self) -> Result<u64> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.take(len).map(drop)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let end = (self.pos as u64).checked_add(len);
        let Some(end) = end.filter(|&end| end <= self.file_len) else {
            let (at, file_len) = (self.pos, self.file_len);
            return malformed(format!("{len} bytes at {at} pass the file's end at {file_len}"));
        };
        if end > MAX_HEADER_BYTES {
            return malformed(format!("the header is longer than {MAX_HEADER_BYTES} bytes"));
        }
        let end = usize::try_from(end).map_err(|_| Failure::Incomplete)?;
        let taken = self.bytes.get(self.pos..end).ok_or(Failure::Incomplete)?;
        self.pos = end;
        Ok(taken)
    }
}

/// Size of a scalar but bool, whose bytes are checked.
fn scalar_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
