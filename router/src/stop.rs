//! Texts that end a completion.
//!
//! Text that may be the beginning of a stop text is held back until that is decided. The stop text
//! that is complete first ends the completion, however the text arrives.

/// Whether a stop text was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Not so far.
    Open,
    /// This one: the completion is over, and nothing follows.
    Stopped(usize),
}

/// Looks for the stop texts in `held`, the text that was not sent yet. Moves what can't be part of
/// one to the end of `sent`; of a completion that is stopped, the rest is dropped.
pub fn scan(stops: &[String], held: &mut String, sent: &mut String) -> Scan {
    let found = stops.iter().enumerate().filter_map(|(i, stop)| {
        let start = held.find(stop.as_str())?;
        Some((start + stop.len(), start, i))
    });
    if let Some((_, start, i)) = found.min() {
        sent.push_str(held.get(..start).unwrap_or_default());
        held.clear();
        return Scan::Stopped(i);
    }
    let num_kept = stops.iter().map(|stop| overlap(held, stop)).max().unwrap_or(0);
    let kept_from = held.len() - num_kept;
    sent.push_str(held.get(..kept_from).unwrap_or_default());
    held.drain(..kept_from);
    Scan::Open
}

/// Bytes of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    let is_shared = |num: &usize| text.as_bytes()[text.len() - num..] == stop.as_bytes()[..*num];
    (1..=longest).rev().find(is_shared).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push_all(stops: &[&str], deltas: &[&str]) -> (String, Scan, String) {
        let stops: Vec<_> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let (mut sent, mut held) = (String::new(), String::new());
        for delta in deltas {
            held.push_str(delta);
            let found = scan(&stops, &mut held, &mut sent);
            if found != Scan::Open {
                return (sent, found, held);
            }
        }
        (sent, Scan::Open, held)
    }

    #[test]
    fn the_stop_text_is_not_sent() {
        let (sent, found, held) = push_all(&["\n\n"], &["one\n", "\ntwo"]);
        assert_eq!((sent.as_str(), found, held.as_str()), ("one", Scan::Stopped(0), ""));
    }

    #[test]
    fn a_beginning_of_a_stop_text_is_held_back() {
        let (sent, found, held) = push_all(&["</end>"], &["a</e"]);
        assert_eq!((sent.as_str(), found, held.as_str()), ("a", Scan::Open, "</e"));

        let (sent, ..) = scan_all(&["</end>"], &["a</e", "nough"]);
        assert_eq!(sent, "a</enough");
    }

    fn scan_all(stops: &[&str], deltas: &[&str]) -> (String, Scan) {
        let (mut sent, found, held) = push_all(stops, deltas);
        sent.push_str(&held);
        (sent, found)
    }

    #[test]
    fn the_stop_text_that_is_complete_first_wins() {
        assert_eq!(scan_all(&["abcd", "bc"], &["xabcd"]), ("xa".into(), Scan::Stopped(1)));
        assert_eq!(scan_all(&["bc", "abc"], &["xabc"]), ("x".into(), Scan::Stopped(1)));
    }

    #[test]
    fn repetitions_and_wide_characters_are_found() {
        assert_eq!(scan_all(&["aab"], &["a", "a", "a", "b"]), ("a".into(), Scan::Stopped(0)));
        assert_eq!(scan_all(&["é!"], &["é", "é", "!"]), ("é".into(), Scan::Stopped(0)));
    }

    proptest! {
        #[test]
        fn deltas_do_not_matter(
            text in "[ab\u{e9}]{0,24}",
            stops in prop::collection::vec("[ab\u{e9}]{1,4}", 1..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let stops: Vec<_> = stops.iter().map(String::as_str).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.retain(|cut| text.is_char_boundary(*cut));
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let deltas: Vec<_> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();

            let (sent, found) = scan_all(&stops, &deltas);

            prop_assert_eq!((sent.clone(), found), scan_all(&stops, &[&text]));
            prop_assert!(stops.iter().all(|stop| !sent.contains(stop)));
            prop_assert!(text.starts_with(&sent));
            prop_assert_eq!(found != Scan::Open, stops.iter().any(|stop| text.contains(stop)));
        }
    }
}
