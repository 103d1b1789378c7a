//! Added tokens: the ones that are found in text before it is tokenised.

use std::borrow::Cow;
use std::collections::HashSet;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::normalizer::Range;
use tokenizers::{
    AddedToken, Encoding, Model as _, NormalizedString, Normalizer, OffsetType, PreTokenizedString,
    PreTokenizer, Result, Token, Tokenizer,
};

/// A character that breaks up what must not be read as a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(char);

/// Which added tokens a text may spell out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// None.
    Nothing,
    /// Those that are not special, such as `<think>`: the text is the model's own.
    Markup,
}

/// The added tokens of one tokenizer.
pub(crate) struct AddedTokens {
    /// Those that text is broken up for: all but runs of white space, which are how some
    /// vocabularies write indentation.
    spelled: Option<AhoCorasick>,
    is_special: Vec<bool>,
    raw: Splitter,
    normalized: Splitter,
}

impl Mark {
    /// Whether it may be a mark where no text contains it.
    pub(crate) fn is_candidate(character: &char) -> bool {
        *character >= '\u{F0000}'
    }

    /// What marks the end of a message. Tokens are broken up by single marks.
    pub(crate) fn end(self) -> String {
        [self.0; 3].iter().collect()
    }

    /// A private-use character that none of the texts contains.
    pub(crate) fn absent_from<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let candidates = ('\u{F0000}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}');
        let taken: HashSet<char> =
            texts.into_iter().flat_map(|text| text.chars().filter(Self::is_candidate)).collect();
        candidates.into_iter().find(|candidate| !taken.contains(candidate)).map(Self)
    }
}

impl AddedTokens {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let mut added: Vec<(u32, AddedToken)> =
            tokenizer.get_added_tokens_decoder().into_iter().collect();
        added.retain(|(_, token)| !token.content.is_empty());
        added.sort_unstable_by_key(|(id, _)| *id);

        let spelled: Vec<_> =
            added.iter().filter(|(_, token)| !token.content.trim().is_empty()).collect();
        let is_special = spelled.iter().map(|(_, token)| token.special).collect();
        let spelled = spelled.iter().map(|(_, token)| token.content.as_str());
        let spelled = (spelled.len() > 0).then(|| AhoCorasick::new(spelled)).transpose()?;

        let (normalized, raw): (Vec<_>, Vec<_>) =
            added.into_iter().partition(|(_, token)| token.normalized);
        let raw_texts: Vec<_> = raw.iter().map(|(_, token)| token.content.clone()).collect();
        let normalized_texts = normalized
            .iter()
            .map(|(_, token)| {
                let mut text = NormalizedString::from(token.content.as_str());
                if let Some(normalizer) = tokenizer.get_normalizer() {
                    normalizer.normalize(&mut text)?;
                }
                Ok(text.get().to_owned())
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            spelled,
            is_special,
            raw: Splitter::new(raw, &raw_texts)?,
            normalized: Splitter::new(normalized, &normalized_texts)?,
        })
    }

    /// Whether a text spells out an added token.
    pub(crate) fn is_spelled_in(&self, text: &str) -> bool {
        self.spelled.as_ref().is_some_and(|spelled| spelled.is_match(text))
    }

    /// Puts the mark into every added token that `text` spells out and is not trusted to.
    pub(crate) fn break_up<'a>(&self, text: &'a str, trust: Trust, mark: Mark) -> Cow<'a, str> {
        let Some(spelled) = &self.spelled else { return text.into() };
        let mut broken = String::new();
        let mut copied = 0;
        let mut starts: Vec<usize> = spelled
            .find_overlapping_iter(text)
            .filter(|found| match trust {
                Trust::Nothing => true,
                Trust::Markup => {
                    self.is_special.get(found.pattern().as_usize()).copied().unwrap_or(true)
                }
            })
            .map(|found| found.start())
            .collect();
        starts.sort_unstable();
        starts.dedup();
        for start in starts {
            // After the first character: what the text begins with stays what it begins with.
            let first = text.get(start..).and_then(|rest| rest.chars().next());
            let middle = start + first.map_or(0, char::len_utf8);
            broken.push_str(text.get(copied..middle).unwrap_or_default());
            broken.push(mark.0);
            copied = middle;
        }
        if copied == 0 {
            return text.into();
        }
        broken.push_str(text.get(copied..).unwrap_or_default());
        broken.into()
    }

    /// The tokens of a text: whole added tokens are themselves, those broken up by the mark are
    /// text, and so is everything else.
    pub(crate) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        mark: Option<Mark>,
    ) -> Result<Vec<u32>> {
        Ok(self.encoding(tokenizer, text, mark)?.get_ids().to_vec())
    }

    /// As [`Self::encode`], with what a post-processor needs to go on.
    pub(super) fn encoding(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        mark: Option<Mark>,
    ) -> Result<Encoding> {
        let Some(Mark(mark)) = mark else {
            return tokenizer.encode_fast(text, false);
        };
        // The library's own steps, with the mark taken out between the second and the third.
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| self.raw.split(&piece))?;
        pieces.split(|_, mut piece| {
            if let Some(normalizer) = tokenizer.get_normalizer() {
                normalizer.normalize(&mut piece)?;
            }
            self.normalized.split(&piece)
        })?;
        pieces.normalize(|piece| {
            piece.filter(|character| character != mark);
            Ok(())
        })?;
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| tokenizer.get_model().tokenize(piece.get()))?;
        pieces.into_encoding(None, 0, OffsetType::None)
    }
}

/// Finds added tokens as the library does.
struct Splitter {
    matcher: Option<AhoCorasick>,
    tokens: Vec<(u32, AddedToken)>,
}

impl Splitter {
    fn new(tokens: Vec<(u32, AddedToken)>, texts: &[String]) -> Result<Self> {
        let matcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts)?;
        let matcher = (!texts.is_empty()).then_some(matcher);
        Ok(Self { matcher, tokens })
    }

    fn split(
        &self,
        piece: &NormalizedString,
    ) -> Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
        let text = piece.get();
        let mut cuts = Vec::new();
        let mut end = 0;
        let found = self.matcher.iter().flat_map(|matcher| matcher.find_iter(text));
        for found in found {
            let Some((id, token)) = self.tokens.get(found.pattern().as_usize()) else { continue };
            let (before, after) = (text.get(..found.start()), text.get(found.end()..));
            let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
            if token.single_word && (ends_with_word(before) || starts_with_word(after)) {
                continue;
            }
            let left = if token.lstrip { before.trim_end().len().max(end) } else { found.start() };
            let num_right = if token.rstrip { after.len() - after.trim_start().len() } else { 0 };
            let right = found.end() + num_right;
            cuts.push((None, end..left));
            cuts.push((Some(*id), left..right));
            end = right;
        }
        cuts.push((None, end..text.len()));
        let slices = cuts.into_iter().filter(|(_, range)| !range.is_empty()).map(|(id, range)| {
            let slice = piece.slice(Range::Normalized(range)).ok_or("a split is out of range")?;
            let tokens = id.map(|id| {
                let text = slice.get().to_owned();
                let offsets = (0, text.len());
                vec![Token::new(id, text, offsets)]
            });
            Ok((slice, tokens))
        });
        slices.collect()
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn ends_with_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_word)
}

fn starts_with_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_word)
}
