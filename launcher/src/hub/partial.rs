//! A file that is still being fetched, by parts that grow at once. What an earlier run left counts.
//!
//! Beside the file there is a note of how far each part has come: it may be behind the file, and
//! costs then a few bytes more; where it is ahead or wrong, the hash of the whole says so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::digest::{Hasher, Hashes};
use crate::store::files::{remove_if_exists, write_atomic};

/// The note is written after so many bytes.
const NOTE_BYTES: u64 = 8 << 20;

/// A file that is still being fetched, and the hash of what is there from its start on.
pub(crate) struct Partial {
    path: PathBuf,
    note: PathBuf,
    file: File,
    state: Mutex<State>,
}

/// How far each part has come, as it is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parts {
    size: u64,
    part_bytes: u64,
    received: Vec<u64>,
    /// The strong ETag under which all bytes came.
    validator: Option<String>,
}

struct State {
    parts: Parts,
    hasher: Hasher,
    /// Bytes that the note doesn't know of.
    num_unnoted: u64,
}

/// The bytes of a part that are still missing: from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Parts {
    fn new(size: u64, part_bytes: u64) -> Self {
        let part_bytes = if size < 2 * part_bytes { size.max(1) } else { part_bytes };
        let num_parts = size.div_ceil(part_bytes).max(1);
        let received = (0..num_parts).map(|_| 0).collect();
        Self { size, part_bytes, received, validator: None }
    }

    /// What a note says, if it makes sense for a file of `size` bytes.
    fn read(note: &Path, size: u64) -> Option<Self> {
        let parts: Self = serde_json::from_slice(&std::fs::read(note).ok()?).ok()?;
        let is_sound = parts.size == size
            && parts.part_bytes > 0
            && parts.received.len() as u64 == size.div_ceil(parts.part_bytes).max(1)
            && (0..parts.received.len()).all(|part| parts.received[part] <= parts.length(part));
        is_sound.then_some(parts)
    }

    fn start(&self, part: usize) -> u64 {
        part as u64 * self.part_bytes
    }

    fn length(&self, part: usize) -> u64 {
        self.part_bytes.min(self.size - self.start(part))
    }

    fn is_complete(&self, part: usize) -> bool {
        self.received[part] == self.length(part)
    }

    fn num_bytes(&self) -> u64 {
        self.received.iter().sum()
    }

    /// Where the last byte ends that is there.
    fn end(&self) -> u64 {
        let ends = (0..self.received.len()).filter(|part| self.received[*part] > 0);
        ends.map(|part| self.start(part) + self.received[part]).max().unwrap_or(0)
    }

    /// Bytes from the start that are there without a gap.
    fn front(&self) -> u64 {
        let open = (0..self.received.len()).find(|part| !self.is_complete(*part));
        open.map_or(self.size, |part| self.start(part) + self.received[part])
    }
}

impl Partial {
    /// Opens what an earlier run left at `path`, or an empty file of parts of `part_bytes`.
    /// Blocking: hashes what is there.
    pub(crate) fn open(
        path: &Path,
        note: &Path,
        (size, part_bytes): (u64, u64),
    ) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let known = Parts::read(note, size)
            .filter(|parts| parts.end() <= metadata.len() && metadata.len() <= size);
        let is_fresh = known.is_none();
        let parts = known.unwrap_or_else(|| Parts::new(size, part_bytes));
        let state = Mutex::new(State { parts, hasher: Hasher::new(size), num_unnoted: 0 });
        let partial = Self { path: path.to_owned(), note: note.to_owned(), file, state };
        if is_fresh {
            partial.restart(part_bytes)?;
        }
        partial.hash_front()?;
        Ok(partial)
    }

    /// Bytes that are there.
    pub(crate) fn num_bytes(&self) -> u64 {
        self.state().parts.num_bytes()
    }

    /// Whether the file is fetched in one piece.
    pub(crate) fn is_whole(&self) -> bool {
        self.state().parts.received.len() == 1
    }

    /// Parts of which bytes are missing.
    pub(crate) fn open_parts(&self) -> Vec<usize> {
        let parts = &self.state().parts;
        (0..parts.received.len()).filter(|part| !parts.is_complete(*part)).collect()
    }

    /// What is missing of `part`; `None` if nothing is.
    pub(crate) fn missing(&self, part: usize) -> Option<Span> {
        let parts = &self.state().parts;
        let start = parts.start(part);
        let span = Span {
            first: start + parts.received[part],
            last: (start + parts.length(part)).checked_sub(1)?,
        };
        (!parts.is_complete(part)).then_some(span)
    }

    /// The ETag under which the bytes came that are there.
    pub(crate) fn validator(&self) -> Option<String> {
        self.state().parts.validator.clone()
    }

    /// Notes the strong ETag of an answer, and says whether it is that of the bytes that are there.
    pub(crate) fn agrees(&self, etag: Option<&str>) -> bool {
        let mut state = self.state();
        let etag = etag.filter(|etag| etag.starts_with('"'));
        match (&state.parts.validator, etag) {
            (Some(known), Some(etag)) => known == etag,
            (None, Some(etag)) => {
                state.parts.validator = Some(etag.to_owned());
                true
            }
            (_, None) => true,
        }
    }

    /// Forgets what is there, and goes on with parts of `part_bytes`.
    pub(crate) fn restart(&self, part_bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        self.file.set_len(0)?;
        let size = state.parts.size;
        let (parts, hasher) = (Parts::new(size, part_bytes), Hasher::new(size));
        *state = State { parts, hasher, num_unnoted: 0 };
        remove_if_exists(&self.note)
    }

    /// Appends `bytes` to `part`, unless they are more than it may have: then returns how many the
    /// file would have.
    pub(crate) fn write(&self, part: usize, bytes: &[u8]) -> io::Result<Result<(), u64>> {
        let Some(Span { first, last }) = self.missing(part) else {
            return Ok(Err(self.num_bytes() + bytes.len() as u64));
        };
        if bytes.len() as u64 > last + 1 - first {
            return Ok(Err(self.num_bytes() + bytes.len() as u64));
        }
        self.file.write_all_at(bytes, first)?;
        let mut state = self.state();
        state.parts.received[part] += bytes.len() as u64;
        state.num_unnoted += bytes.len() as u64;
        if state.hasher.num_bytes() == first {
            state.hasher.update(bytes);
        }
        if state.num_unnoted >= NOTE_BYTES {
            self.write_note(&mut state);
        }
        Ok(Ok(()))
    }

    /// Hashes what is there without a gap and was not hashed as it came. Blocking.
    pub(crate) fn hash_front(&self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 18];
        loop {
            let mut state = self.state();
            let hashed = state.hasher.num_bytes();
            let left = usize::try_from(state.parts.front() - hashed).unwrap_or(usize::MAX);
            if left == 0 {
                return Ok(());
            }
            let chunk = &mut buffer[..left.min(1 << 18)];
            self.file.read_exact_at(chunk, hashed)?;
            state.hasher.update(chunk);
        }
    }

    /// Makes the bytes survive a power cut, and says what they are. Blocking.
    pub(crate) fn finish(&self) -> io::Result<Hashes> {
        self.hash_front()?;
        self.file.sync_all()?;
        let mut state = self.state();
        state.num_unnoted = 0;
        let size = state.parts.size;
        let hasher = std::mem::replace(&mut state.hasher, Hasher::new(size));
        remove_if_exists(&self.note)?;
        Ok(hasher.finish())
    }

    /// Deletes the file and its note.
    pub(crate) fn discard(&self) -> io::Result<()> {
        self.state().num_unnoted = 0;
        remove_if_exists(&self.path).and(remove_if_exists(&self.note))
    }

    /// Notes how far each part has come.
    pub(crate) fn note(&self) {
        self.write_note(&mut self.state());
    }

    fn write_note(&self, state: &mut State) {
        let json = serde_json::to_vec(&state.parts).map_err(io::Error::from);
        if let Err(error) = json.and_then(|json| write_atomic(&self.note, &json)) {
            tracing::debug!(%error, "could not note how far a transfer came");
        }
        state.num_unnoted = 0;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment, or ends with one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.state().num_unnoted > 0 {
            self.note();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::{ContentId, Sha256Hash};

    fn open(directory: &Path, size: u64, part_bytes: u64) -> io::Result<Partial> {
        let (path, note) = (directory.join("x.incomplete"), directory.join("x.json"));
        Partial::open(&path, &note, (size, part_bytes))
    }

    #[test]
    fn what_an_earlier_run_left_is_part_of_the_hash() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), 11, 100).unwrap();
        first.write(0, b"hello ").unwrap().unwrap();
        drop(first);

        let second = open(directory.path(), 11, 100).unwrap();
        assert_eq!(second.missing(0), Some(Span { first: 6, last: 10 }));
        second.write(0, b"world").unwrap().unwrap();
        assert!(second.open_parts().is_empty());

        let hashes = second.finish().unwrap();
        assert!(hashes.matches(&ContentId::Sha256(Sha256Hash::of(b"hello world"))));
    }

    #[test]
    fn a_byte_too_many_is_refused_and_a_leftover_that_nobody_noted_is_dropped() {
        let directory = tempfile::tempdir().unwrap();

        let partial = open(directory.path(), 3, 100).unwrap();
        assert_eq!(partial.write(0, b"four").unwrap(), Err(4));
        drop(partial);

        for leftover in [&b"on"[..], b"four"] {
            std::fs::write(directory.path().join("x.incomplete"), leftover).unwrap();
            assert_eq!(open(directory.path(), 3, 100).unwrap().num_bytes(), 0);
        }
    }

    #[test]
    fn a_note_that_makes_no_sense_is_a_fresh_start() {
        let directory = tempfile::tempdir().unwrap();
        let partial = open(directory.path(), 10, 4).unwrap();
        partial.write(1, b"5678").unwrap().unwrap();
        drop(partial);
        assert_eq!(open(directory.path(), 10, 4).unwrap().num_bytes(), 4);
        let note = std::fs::read_to_string(directory.path().join("x.json")).unwrap();

        for (from, to) in
            [("[0,4,0]", "[0,5,0]"), ("[0,4,0]", "[0,4,3]"), (":10", ":11"), ("{", "[")]
        {
            let wrong = note.replacen(from, to, 1);
            assert_ne!(wrong, note);
            std::fs::write(directory.path().join("x.json"), wrong).unwrap();
            std::fs::write(directory.path().join("x.incomplete"), b"00005678").unwrap();
            assert_eq!(open(directory.path(), 10, 4).unwrap().num_bytes(), 0, "{to}");
        }
    }

    #[test]
    fn a_link_is_not_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.incomplete");
        std::os::unix::fs::symlink(directory.path().join("victim"), &path).unwrap();

        assert!(open(directory.path(), 3, 100).is_err());
    }

    proptest! {
        // Each end of a run waits for the disk.
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// In whatever order parts grow, and wherever runs end, the hash is that of the content.
        #[test]
        fn parts_in_any_order_make_the_whole(
            content in proptest::collection::vec(any::<u8>(), 0..200),
            part_bytes in 1..50_u64,
            steps in proptest::collection::vec((any::<usize>(), 1..20_usize, prop::bool::weighted(0.1)), 0..60),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let size = content.len() as u64;
            let mut partial = open(directory.path(), size, part_bytes).unwrap();
            let tail = std::iter::repeat_n((0, 20, false), 200);
            for (pick, len, ends) in steps.into_iter().chain(tail) {
                if ends {
                    let before = partial.num_bytes();
                    drop(partial);
                    partial = open(directory.path(), size, part_bytes).unwrap();
                    prop_assert_eq!(partial.num_bytes(), before);
                }
                let parts = partial.open_parts();
                let Some(&part) = parts.get(pick % parts.len().max(1)) else { continue };
                let Some(Span { first, last }) = partial.missing(part) else { continue };
                let end = (first as usize + len).min(last as usize + 1);
                partial.write(part, &content[first as usize..end]).unwrap().unwrap();
            }
            let hashes = partial.finish().unwrap();
            prop_assert_eq!(hashes.sha256, Sha256Hash::of(&content));
        }
    }
}
