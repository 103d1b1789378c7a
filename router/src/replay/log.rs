//! What is kept of one answer: whole events, in a ring of bytes.
//!
//! Events are numbered from 1 in the order in which they came. Only those that a reader was given
//! are ever dropped, oldest first, so whoever has read all that was sent misses nothing.

use std::collections::VecDeque;
use std::ops::Range;

/// The events that are kept.
#[derive(Default)]
pub(super) struct Log {
    bytes: VecDeque<u8>,
    /// Where each kept event ends, counted from the first byte that ever came.
    ends: VecDeque<u64>,
    /// Where the first kept event begins, counted likewise.
    start: u64,
    num_dropped: u64,
    /// Events that some reader was given.
    num_given: u64,
}

/// What there is after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Events, and the number of the last of them.
    Events(Vec<u8>, u64),
    /// Nothing yet.
    Nothing,
    /// What was there is not kept any more.
    Dropped,
}

impl Log {
    pub(super) fn push(&mut self, event: &[u8]) {
        self.bytes.extend(event);
        self.ends.push_back(self.start + self.bytes.len() as u64);
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<u64>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The number of the newest event.
    pub(super) fn last(&self) -> u64 {
        self.num_dropped + self.ends.len() as u64
    }

    pub(super) fn num_dropped(&self) -> u64 {
        self.num_dropped
    }

    /// Drops the oldest event, if a reader was given it.
    pub(super) fn drop_oldest(&mut self) -> bool {
        if self.num_dropped >= self.num_given {
            return false;
        }
        let Some(end) = self.ends.pop_front() else { return false };
        self.bytes.drain(..(end - self.start) as usize);
        self.start = end;
        self.num_dropped += 1;
        true
    }

    /// Counts every event as given.
    pub(super) fn give_all(&mut self) {
        self.num_given = self.last();
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.give_all();
        while self.drop_oldest() {}
        self.shrink();
    }

    /// Gives memory back that it may never need again.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Gives the events after the one of this number: one, and more while they have at most so many
    /// bytes together.
    pub(super) fn after(&mut self, number: u64, max_bytes: usize) -> Next {
        let Some(first) = number.checked_sub(self.num_dropped) else { return Next::Dropped };
        let first = first as usize;
        if first >= self.ends.len() {
            return Next::Nothing;
        }
        let begin = first.checked_sub(1).and_then(|before| self.ends.get(before));
        let begin = begin.copied().unwrap_or(self.start);
        let limit = begin + max_bytes as u64;
        let num = self.ends.range(first..).take_while(|end| **end <= limit).count().max(1);
        let end = self.ends.get(first + num - 1).copied().unwrap_or(begin);
        let range = (begin - self.start) as usize..(end - self.start) as usize;
        let last = number + num as u64;
        self.num_given = self.num_given.max(last);
        Next::Events(self.copy(range), last)
    }

    fn copy(&self, Range { start, end }: Range<usize>) -> Vec<u8> {
        let (front, back) = self.bytes.as_slices();
        let split = front.len();
        let mut bytes = Vec::with_capacity(end - start);
        bytes.extend_from_slice(front.get(start.min(split)..end.min(split)).unwrap_or_default());
        let rest = start.saturating_sub(split)..end.saturating_sub(split);
        bytes.extend_from_slice(back.get(rest).unwrap_or_default());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(next: Next) -> String {
        let Next::Events(bytes, _) = next else { panic!("{next:?}") };
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn only_what_was_given_is_dropped() {
        let mut log = Log::default();
        for event in ["one ", "two ", "three "] {
            log.push(event.as_bytes());
        }
        assert!(!log.drop_oldest());

        assert_eq!(text(log.after(0, 8)), "one two ");
        assert!(log.drop_oldest() && log.drop_oldest() && !log.drop_oldest());

        assert_eq!(log.after(1, 8), Next::Dropped);
        assert_eq!(text(log.after(2, 8)), "three ");
        assert_eq!(log.after(3, 8), Next::Nothing);
        assert_eq!((log.last(), log.num_dropped()), (3, 2));
    }

    #[test]
    fn an_event_above_the_limit_is_given_whole() {
        let mut log = Log::default();
        log.push(b"long event");
        log.push(b"next");
        assert_eq!(log.after(0, 3), Next::Events(b"long event".to_vec(), 1));
    }

    #[test]
    fn what_is_cleared_is_gone() {
        let mut log = Log::default();
        log.push(b"event");
        log.clear();
        assert_eq!(
            (log.size(), log.after(0, 9), log.after(1, 9)),
            (0, Next::Dropped, Next::Nothing)
        );
    }

    proptest! {
        #[test]
        fn a_reader_that_is_ahead_of_all_drops_gets_every_event_once(
            events in prop::collection::vec("[a-z]{1,9}", 0..50),
            max in 1_usize..40,
            keep in 0_usize..60,
        ) {
            let mut log = Log::default();
            let (mut read, mut position) = (String::new(), 0);
            for event in &events {
                log.push(event.as_bytes());
                if let Next::Events(bytes, last) = log.after(position, max) {
                    read += std::str::from_utf8(&bytes).unwrap();
                    position = last;
                }
                while log.size() > keep && log.drop_oldest() {}
            }
            while let Next::Events(bytes, last) = log.after(position, max) {
                read += std::str::from_utf8(&bytes).unwrap();
                position = last;
            }
            prop_assert_eq!(read, events.concat());
            prop_assert_eq!(position, events.len() as u64);
        }
    }
}
