//! Golden prompts: what a version must answer before it gets traffic.
//!
//! A file has one JSON object a line; empty lines, and those that begin with `#`, are skipped:
//!
//! ```text
//! {"prompt": "1 + 1 =", "max_tokens": 4, "contains": "2"}
//! {"messages": [{"role": "user", "content": "Say yes."}], "regex": "(?i)^yes", "max_ttft_ms": 2000}
//! ```
//!
//! Whoever asks them sets the temperature to 0. What does not hold is told by line: prompts and
//! answers are in no message.

use std::time::Duration;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Bytes that a file of golden prompts may have.
pub const MAX_BYTES: usize = 1 << 20;

/// Golden prompts that it may have.
pub const MAX_PROMPTS: usize = 1000;

/// Tokens of an answer, at most.
const MAX_TOKENS: u32 = 4096;

/// Tokens of an answer, unless the line says otherwise.
const DEFAULT_TOKENS: u32 = 64;

/// Bytes that a compiled pattern may take.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// A prompt, and what must hold of its answer.
#[derive(Clone, Debug)]
pub struct Golden {
    /// Where it stands in its file, from 1 on.
    pub line: usize,
    /// What is asked.
    pub prompt: Prompt,
    /// Tokens of the answer, at most.
    pub max_tokens: u32,
    expected: Expected,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A text to go on with.
    Text(String),
    /// A conversation to answer.
    Messages(Vec<Message>),
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// What a version answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// All of it.
    pub text: String,
    /// Time to the first token.
    pub ttft: Duration,
}

/// Whether an answer is as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Holds,
    /// It is not: why, with the line.
    Fails(String),
}

/// Why a file can't be read as golden prompts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line is not as it should be.
    #[error("line {line}: {why}")]
    Line {
        /// Which, from 1 on.
        line: usize,
        /// In words.
        why: String,
    },
    /// It has none.
    #[error("there are no golden prompts in it")]
    Empty,
    /// More bytes than are read.
    #[error("it has {0} bytes, and at most {MAX_BYTES} are read")]
    TooLarge(usize),
    /// More prompts than are asked.
    #[error("it has more than {MAX_PROMPTS} prompts")]
    TooMany,
}

#[derive(Clone, Debug)]
struct Expected {
    equals: Option<String>,
    contains: Vec<String>,
    regex: Option<Regex>,
    is_json: bool,
    max_ttft: Option<Duration>,
}

/// A line, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    equals: Option<String>,
    contains: Option<OneOrMore>,
    regex: Option<String>,
    json: Option<bool>,
    max_ttft_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`contains` is neither a text nor a list of texts")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Reads a file's text.
///
/// # Errors
///
/// The first line that is not as it should be, and why.
pub fn parse(text: &str) -> Result<Vec<Golden>, Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::TooLarge(text.len()));
    }
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let read = |(line, text)| read_line(line, text).map_err(|why| Error::Line { line, why });
    let prompts: Vec<Golden> = lines.take(MAX_PROMPTS + 1).map(read).collect::<Result<_, _>>()?;
    match prompts.len() {
        0 => Err(Error::Empty),
        num if num > MAX_PROMPTS => Err(Error::TooMany),
        _ => Ok(prompts),
    }
}

fn read_line(line: usize, text: &str) -> Result<Golden, String> {
    let read: Line = serde_json::from_str(text).map_err(|error| {
        // It is one line to serde, whichever it is in the file.
        error.to_string().replace("line 1 column", "column")
    })?;
    let prompt = match (read.prompt, read.messages) {
        (Some(text), None) if !text.is_empty() => Prompt::Text(text),
        (None, Some(messages)) if !messages.is_empty() => Prompt::Messages(messages),
        (Some(_), Some(_)) => return Err("both `prompt` and `messages`".to_owned()),
        (None, None) => return Err("neither `prompt` nor `messages`".to_owned()),
        (Some(_), None) => return Err("`prompt` is empty".to_owned()),
        (None, Some(_)) => return Err("`messages` is empty".to_owned()),
    };
    let max_tokens = read.max_tokens.unwrap_or(DEFAULT_TOKENS);
    if !(1..=MAX_TOKENS).contains(&max_tokens) {
        return Err(format!("`max_tokens` is {max_tokens}: expected 1 to {MAX_TOKENS}"));
    }
    let contains = match read.contains {
        Some(OneOrMore::One(text)) => vec![text],
        Some(OneOrMore::More(texts)) => texts,
        None => Vec::new(),
    };
    let expected = Expected {
        equals: read.equals,
        contains,
        regex: read.regex.as_deref().map(compile).transpose()?,
        is_json: read.json.unwrap_or(false),
        max_ttft: read.max_ttft_ms.map(Duration::from_millis),
    };
    if expected.is_empty() {
        let keys = "`equals`, `contains`, `regex`, `json` and `max_ttft_ms`";
        return Err(format!("nothing that must hold: expected one of {keys}"));
    }
    Ok(Golden { line, prompt, max_tokens, expected })
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let compiled = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build();
    // The last line of the message says what is wrong, the others show where.
    compiled.map_err(|error| {
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("`regex`: {why}")
    })
}

/// Whether an answer is as it must be.
pub fn judge(golden: &Golden, answer: &Answer) -> Verdict {
    match golden.expected.find_fault(answer) {
        Some(fault) => Verdict::Fails(format!("line {}: {fault}", golden.line)),
        None => Verdict::Holds,
    }
}

impl Expected {
    fn is_empty(&self) -> bool {
        let Self { equals, contains, regex, is_json, max_ttft } = self;
        equals.is_none()
            && contains.iter().all(String::is_empty)
            && regex.is_none()
            && !is_json
            && max_ttft.is_none()
    }

    fn find_fault(&self, Answer { text, ttft }: &Answer) -> Option<String> {
        if let Some(expected) = &self.equals
            && expected != text
        {
            let same = expected.chars().zip(text.chars()).take_while(|(a, b)| a == b).count();
            return Some(format!("the answer differs from `equals` after {same} characters"));
        }
        if let Some(index) = self.contains.iter().position(|part| !text.contains(part)) {
            return Some(format!("the answer lacks text {} of `contains`", index + 1));
        }
        if self.regex.as_ref().is_some_and(|regex| !regex.is_match(text)) {
            return Some("the answer does not match `regex`".to_owned());
        }
        if self.is_json && serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
            return Some("the answer is not JSON".to_owned());
        }
        let max = self.max_ttft.filter(|max| ttft > max)?;
        let (ttft, max) = (ttft.as_millis(), max.as_millis());
        Some(format!("the first token came after {ttft} ms, and {max} ms are allowed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Golden {
        parse(line).unwrap().remove(0)
    }

    fn answer(text: &str) -> Answer {
        Answer { text: text.to_owned(), ttft: Duration::from_millis(100) }
    }

    fn fault(line: &str, text: &str) -> Option<String> {
        match judge(&read(line), &answer(text)) {
            Verdict::Holds => None,
            Verdict::Fails(why) => Some(why),
        }
    }

    #[test]
    fn a_file_is_read_with_the_lines_where_its_prompts_stand() {
        let text = "# greetings\n\n{\"prompt\": \"a\", \"contains\": \"b\", \"max_tokens\": 3}\n\
                    {\"messages\": [{\"role\": \"user\", \"content\": \"c\"}], \"json\": true}\n";

        let golden = parse(text).unwrap();

        assert_eq!((golden[0].line, golden[0].max_tokens), (3, 3));
        assert_eq!(golden[0].prompt, Prompt::Text("a".to_owned()));
        assert_eq!((golden[1].line, golden[1].max_tokens), (4, DEFAULT_TOKENS));
        assert!(matches!(&golden[1].prompt, Prompt::Messages(m) if m[0].content == "c"));
    }

    #[test]
    fn each_condition_holds_or_fails_with_its_line() {
        let cases = [
            (r#"{"prompt": "p", "equals": "abc"}"#, "abc", "abd", "`equals` after 2 characters"),
            (r#"{"prompt": "p", "equals": "ab"}"#, "ab", "abc", "`equals` after 2 characters"),
            (r#"{"prompt": "p", "contains": ["a", "b"]}"#, "b a", "a", "text 2 of `contains`"),
            (r#"{"prompt": "p", "regex": "^\\d+$"}"#, "12", "x12", "`regex`"),
            (r#"{"prompt": "p", "json": true}"#, "{\"a\": 1}", "{\"a\": ", "not JSON"),
            (r#"{"prompt": "p", "json": true}"#, "[]", "[] and", "not JSON"),
        ];
        for (line, good, bad, why) in cases {
            assert_eq!(fault(line, good), None, "{line}");
            let fault = fault(line, bad).unwrap();
            assert!(fault.starts_with("line 1: ") && fault.contains(why), "{fault}");
        }
        let slow = read(r#"{"prompt": "p", "max_ttft_ms": 99}"#);
        assert!(
            matches!(judge(&slow, &answer("x")), Verdict::Fails(why) if why.contains("100 ms"))
        );
    }

    #[test]
    fn a_bad_line_is_named_with_what_is_wrong() {
        let good = r#"{"prompt": "p", "contains": "x"}"#;
        let cases = [
            ("{", "EOF while parsing an object at column 1"),
            (r#"{"promt": "p"}"#, "unknown field `promt`"),
            (r#"{"prompt": "p"}"#, "nothing that must hold"),
            (r#"{"prompt": "p", "json": false}"#, "nothing that must hold"),
            (r#"{"prompt": "p", "contains": ""}"#, "nothing that must hold"),
            (r#"{"prompt": "p", "contains": 3}"#, "neither a text nor a list"),
            (r#"{"contains": "x"}"#, "neither `prompt` nor `messages`"),
            (r#"{"prompt": "p", "messages": [], "json": true}"#, "both `prompt` and `messages`"),
            (r#"{"messages": [], "json": true}"#, "`messages` is empty"),
            (r#"{"prompt": "p", "json": true, "max_tokens": 0}"#, "expected 1 to 4096"),
            (r#"{"prompt": "p", "regex": "("}"#, "`regex`: unclosed group"),
            (r#"{"prompt": "p", "regex": "a{1000}{1000}"}"#, "`regex`: "),
        ];
        for (line, why) in cases {
            let error = parse(&format!("{good}\n{line}\n{good}")).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(why), "{line}: {error}");
        }
        assert_eq!(parse("# nothing\n").unwrap_err(), Error::Empty);
        assert_eq!(parse(&format!("{good}\n").repeat(1001)).unwrap_err(), Error::TooMany);
    }

    #[test]
    fn no_message_repeats_a_prompt_or_an_answer() {
        let line = r#"{"prompt": "secret-prompt", "equals": "secret-expected"}"#;
        assert!(!fault(line, "secret-answer").unwrap().contains("secret-"));
    }
}
