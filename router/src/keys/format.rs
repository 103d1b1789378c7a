//! The text of a key: prefix, id, secret, checksum.
//!
//! The checksum lets a scanner tell a key from a lookalike, and lets the router turn away garbage
//! before it asks the database.

use std::fmt;

use rand::Rng;
use rand::distr::Alphanumeric;

const PREFIX: &str = "sk-sconce-";
const ID_LEN: usize = 12;
/// 43 characters of 62 are 256 bits.
const SECRET_LEN: usize = 43;
/// 6 characters of 62 hold 32 bits.
const CHECKSUM_LEN: usize = 6;
const KEY_LEN: usize = PREFIX.len() + ID_LEN + 1 + SECRET_LEN + CHECKSUM_LEN;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key in the clear. `Debug` shows only its id.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

/// The public part of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; ID_LEN]);

/// The text is not a key: wrong length, alphabet, prefix or checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an API key")]
pub struct Malformed;

impl Key {
    /// Draws a key from the operating system's entropy.
    pub fn generate() -> Self {
        let mut rng = rand::rng();
        let mut draw =
            |len| -> String { (0..len).map(|_| char::from(rng.sample(Alphanumeric))).collect() };
        let body = format!("{PREFIX}{}-{}", draw(ID_LEN), draw(SECRET_LEN));
        let checksum = checksum(body.as_bytes());
        Self(body + &checksum)
    }

    /// Reads a key exactly as it was printed; case matters and nothing is trimmed.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        if text.len() != KEY_LEN || !text.starts_with(PREFIX.as_bytes()) {
            return Err(Malformed);
        }
        let (body, check) = text.split_at(KEY_LEN - CHECKSUM_LEN);
        let (id, rest) = body[PREFIX.len()..].split_at(ID_LEN);
        let (separator, secret) = rest.split_at(1);
        let alphabet = id.iter().chain(secret).all(u8::is_ascii_alphanumeric);
        if !alphabet || separator != b"-" || check != checksum(body).as_bytes() {
            return Err(Malformed);
        }
        String::from_utf8(text.to_vec()).map(Self).map_err(|_| Malformed)
    }

    /// The key's public part.
    pub fn id(&self) -> KeyId {
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&self.0.as_bytes()[PREFIX.len()..PREFIX.len() + ID_LEN]);
        KeyId(id)
    }

    /// The key as the client sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The part that proves the holder.
    pub(crate) fn secret(&self) -> &[u8] {
        let start = PREFIX.len() + ID_LEN + 1;
        &self.0.as_bytes()[start..start + SECRET_LEN]
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, secret redacted)", self.id())
    }
}

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Only ASCII letters and digits are let in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn checksum(body: &[u8]) -> String {
    let mut rest = crc32fast::hash(body);
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_generated_key_reads_back() {
        let key = Key::generate();

        assert_eq!(key.expose().len(), KEY_LEN);
        assert_eq!(Key::parse(key.expose().as_bytes()), Ok(key.clone()));
        assert_eq!(&key.expose()[PREFIX.len()..][..ID_LEN], key.id().as_str());
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let key = Key::generate();
        let shown = format!("{key:?}");

        let secret = std::str::from_utf8(key.secret()).unwrap();
        assert!(shown.contains(key.id().as_str()));
        assert!(!shown.contains(secret));
    }

    proptest! {
        #[test]
        fn a_key_with_any_byte_changed_is_malformed(at in 0..KEY_LEN, to in any::<u8>()) {
            let key = Key::generate();
            let mut text = key.expose().as_bytes().to_vec();
            prop_assume!(text[at] != to);
            text[at] = to;

            prop_assert_eq!(Key::parse(&text), Err(Malformed));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Key::parse(&text), Err(Malformed));
        }
    }
}
