//! Conversations of a file: JSON lines, a JSON array, or BurstGPT's CSV.
//!
//! Formats, told apart by the first record's fields:
//! - ShareGPT: `{"conversations": [{"from": "human", "value": …}, …]}`, and a `timestamp` in seconds
//!   if there is one. Answers have as many tokens as the recorded one seems to have.
//! - Mooncake (Qin et al., 2024): `{"timestamp", "input_length", "output_length", "hash_ids"}`, in
//!   milliseconds. Equal hashes stand for equal blocks of 512 tokens.
//! - BurstGPT (Wang et al., 2024): `Timestamp`, in seconds, `Request tokens`, `Response tokens`;
//!   requests without a response had failed, and are left out.
//! - Sconce's own: `{"timestamp", "prompt" or "messages", "max_tokens", "body": {…}}`, in seconds,
//!   everything but the prompt optional. `body` are further fields of the request.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Session, Turn, words};

/// Tokens of a block that a hash of a Mooncake trace stands for.
const MOONCAKE_BLOCK: u32 = 512;

/// Most tokens that a record may ask for.
const MAX_TOKENS: u32 = 1 << 22;

/// Which format a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// ShareGPT's conversations
    Sharegpt,
    /// Mooncake's lengths and hashes
    Mooncake,
    /// BurstGPT's lengths
    Burstgpt,
    /// Prompts or messages
    Prompts,
}

/// Why a trace can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("can't read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}, record {number}: {reason}", path.display())]
    Record { path: PathBuf, number: usize, reason: String },
    #[error("{} has no request that can be sent", .0.display())]
    Empty(PathBuf),
}

/// The conversations of a file, by their time.
#[derive(Debug)]
pub(crate) struct Trace {
    sessions: Vec<Session>,
    has_times: bool,
}

impl Trace {
    /// Reads the first `most` conversations of `path`, each with its first `max_turns` requests.
    pub(crate) fn read(
        path: &Path,
        format: Option<Format>,
        most: usize,
        max_turns: usize,
    ) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let wrong = |number, reason| Error::Record { path: path.to_owned(), number, reason };
        let mut trace = Self { sessions: Vec::new(), has_times: true };
        for (index, record) in records(&text).enumerate() {
            if trace.sessions.len() >= most {
                break;
            }
            let number = index + 1;
            let record = record.map_err(|reason| wrong(number, reason))?;
            let parsed = parse(&record, format).map_err(|reason| wrong(number, reason))?;
            let Some((at, mut session)) = parsed else { continue };
            session.turns.truncate(max_turns);
            trace.has_times &= at.is_some();
            session.at = at.unwrap_or_default();
            trace.sessions.push(session);
        }
        trace.sessions.sort_by_key(|session| session.at);
        let Some(first) = trace.sessions.first().map(|session| session.at) else {
            return Err(Error::Empty(path.to_owned()));
        };
        trace.sessions.iter_mut().for_each(|session| session.at -= first);
        Ok(trace)
    }

    /// Whether every record says when it was sent.
    pub(crate) fn has_times(&self) -> bool {
        self.has_times
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// When conversations begin.
    pub(crate) fn times(&self) -> impl Iterator<Item = Duration> {
        self.sessions.iter().map(|session| session.at)
    }

    pub(super) fn session(&self, index: usize) -> Session {
        self.sessions[index % self.sessions.len()].clone()
    }
}

/// The records of a file: elements of an array, lines of JSON, or lines of CSV under a head.
fn records(text: &str) -> Box<dyn Iterator<Item = Result<Value, String>> + '_> {
    let place = |error: &serde_json::Error| format!("not JSON at column {}", error.column());
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with('[') {
        return match serde_json::from_str::<Vec<Value>>(text) {
            Ok(records) => Box::new(records.into_iter().map(Ok)),
            Err(error) => Box::new(std::iter::once(Err(format!(
                "no array of JSON at line {}, column {}",
                error.line(),
                error.column()
            )))),
        };
    }
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    if text.starts_with('{') {
        return Box::new(lines.map(move |line| serde_json::from_str(line).map_err(|e| place(&e))));
    }
    let head: Vec<&str> = lines.next().unwrap_or("").split(',').map(str::trim).collect();
    Box::new(lines.map(move |line| {
        let cells = line.split(',').map(|cell| match cell.trim().parse::<f64>() {
            Ok(number) => number.into(),
            Err(_) => cell.trim().into(),
        });
        Ok(Value::Object(head.iter().map(|name| (*name).to_owned()).zip(cells).collect()))
    }))
}

/// A record's conversation, and when it began. `None`: nothing was sent.
type Parsed = Option<(Option<Duration>, Session)>;

fn parse(record: &Value, format: Option<Format>) -> Result<Parsed, String> {
    let format = format.or_else(|| detect(record));
    match format.ok_or("of no format that is known: see --help")? {
        Format::Sharegpt => share_gpt(record),
        Format::Mooncake => mooncake(record).map(Some),
        Format::Burstgpt => burst_gpt(record),
        Format::Prompts => prompts(record).map(Some),
    }
}

fn detect(record: &Value) -> Option<Format> {
    let has = |name| record.get(name).is_some();
    match () {
        () if has("conversations") || has("conversation") => Some(Format::Sharegpt),
        () if has("input_length") => Some(Format::Mooncake),
        () if has("Request tokens") => Some(Format::Burstgpt),
        () if has("prompt") || has("messages") || has("body") => Some(Format::Prompts),
        () => None,
    }
}

fn read<'de, T: Deserialize<'de>>(record: &'de Value) -> Result<T, String> {
    T::deserialize(record).map_err(|_| "fields are missing, or of other types".to_owned())
}

fn time(value: Option<f64>, scale: f64) -> Result<Option<Duration>, String> {
    let time = value.map(|value| Duration::try_from_secs_f64(value * scale)).transpose();
    time.map_err(|_| "its timestamp is no time".to_owned())
}

fn tokens(number: f64) -> Result<u32, String> {
    let is_sound = (0.0..=f64::from(MAX_TOKENS)).contains(&number);
    is_sound.then_some(number as u32).ok_or_else(|| format!("{number} is no number of tokens"))
}

/// About as many tokens as a text has.
fn guess(text: &str) -> u32 {
    u32::try_from(text.chars().count() / 4).unwrap_or(MAX_TOKENS).clamp(1, MAX_TOKENS)
}

fn share_gpt(record: &Value) -> Result<Parsed, String> {
    #[derive(Deserialize)]
    struct Record {
        #[serde(alias = "conversation")]
        conversations: Vec<Message>,
        #[serde(default)]
        timestamp: Option<f64>,
    }
    #[derive(Deserialize)]
    struct Message {
        #[serde(alias = "role")]
        from: String,
        #[serde(alias = "content")]
        value: String,
    }
    let record: Record = read(record)?;
    let mut session = Session::default();
    for pair in record.conversations.windows(2) {
        let [asked, answered] = pair else { continue };
        let is_pair = matches!(&*asked.from, "human" | "user")
            && matches!(&*answered.from, "gpt" | "assistant" | "chatgpt" | "bing" | "bard");
        if is_pair && !asked.value.is_empty() {
            let max_tokens = Some(guess(&answered.value));
            session.turns.push(Turn { text: asked.value.clone(), max_tokens, ..Turn::default() });
        }
    }
    let is_something = !session.turns.is_empty();
    Ok(is_something.then_some((time(record.timestamp, 1.0)?, session)))
}

fn mooncake(record: &Value) -> Result<(Option<Duration>, Session), String> {
    #[derive(Deserialize)]
    struct Record {
        #[serde(default)]
        timestamp: Option<f64>,
        input_length: f64,
        output_length: f64,
        #[serde(default)]
        hash_ids: Vec<u64>,
    }
    let record: Record = read(record)?;
    let length = tokens(record.input_length)?.max(1);
    let mut text = String::new();
    let mut left = length;
    // What no hash stands for is nobody else's.
    let own = u64::MAX ^ u64::from(length) ^ record.timestamp.unwrap_or(0.0).to_bits();
    for hash in record.hash_ids.into_iter().chain(std::iter::once(own)) {
        let block = if hash == own { left } else { left.min(MOONCAKE_BLOCK) };
        words::append(&mut text, block, &mut StdRng::seed_from_u64(hash));
        left -= block;
    }
    let max_tokens = Some(tokens(record.output_length)?.max(1));
    let turns = vec![Turn { text, max_tokens, ..Turn::default() }];
    Ok((time(record.timestamp, 1e-3)?, Session { turns, ..Session::default() }))
}

fn burst_gpt(record: &Value) -> Result<Parsed, String> {
    #[derive(Deserialize)]
    struct Record {
        #[serde(rename = "Timestamp")]
        timestamp: f64,
        #[serde(rename = "Request tokens")]
        request: f64,
        #[serde(rename = "Response tokens")]
        response: f64,
    }
    let record: Record = read(record)?;
    let (request, response) = (tokens(record.request)?, tokens(record.response)?);
    if response == 0 {
        return Ok(None);
    }
    let seed = record.timestamp.to_bits() ^ u64::from(request) << 32 ^ u64::from(response);
    let mut text = String::new();
    words::append(&mut text, request.max(1), &mut StdRng::seed_from_u64(seed));
    let turns = vec![Turn { text, max_tokens: Some(response), ..Turn::default() }];
    Ok(Some((time(Some(record.timestamp), 1.0)?, Session { turns, ..Session::default() })))
}

fn prompts(record: &Value) -> Result<(Option<Duration>, Session), String> {
    #[derive(Deserialize)]
    struct Record {
        #[serde(default)]
        timestamp: Option<f64>,
        #[serde(default)]
        prompt: String,
        #[serde(default)]
        messages: Vec<Value>,
        #[serde(default, alias = "max_completion_tokens", alias = "output_tokens")]
        max_tokens: Option<f64>,
        #[serde(default)]
        body: Map<String, Value>,
    }
    let record: Record = read(record)?;
    if record.prompt.is_empty() && record.messages.is_empty() && record.body.is_empty() {
        return Err("it has neither prompt nor messages".to_owned());
    }
    let turn = Turn {
        text: record.prompt,
        max_tokens: record.max_tokens.map(tokens).transpose()?,
        fields: record.body,
        ..Turn::default()
    };
    let session = Session { before: record.messages, turns: vec![turn], ..Session::default() };
    Ok((time(record.timestamp, 1.0)?, session))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Trace, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Trace::read(file.path(), None, 100, 2)
    }

    #[test]
    fn conversations_are_read_pair_by_pair() {
        let text = r#"[
            {"id": "a", "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "one"}, {"from": "gpt", "value": "12345678"},
                {"from": "human", "value": "two"}, {"from": "gpt", "value": "x"},
                {"from": "human", "value": "three"}, {"from": "gpt", "value": "x"}]},
            {"id": "b", "conversations": []}
        ]"#;
        let trace = read_text(text).unwrap();

        assert!(!trace.has_times());
        let [session] = &trace.sessions[..] else { panic!() };
        let turns: Vec<_> = session.turns.iter().map(|t| (&*t.text, t.max_tokens)).collect();
        assert_eq!(turns, [("one", Some(2)), ("two", Some(1))]);
        assert_eq!(trace.session(5), *session);
    }

    #[test]
    fn equal_hashes_are_equal_texts() {
        let text = r#"
            {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}
            {"timestamp": 1000, "input_length": 1000, "output_length": 7, "hash_ids": [1, 3]}"#;
        let trace = read_text(text).unwrap();

        assert!(trace.has_times());
        let times: Vec<_> = trace.times().collect();
        assert_eq!(times, [Duration::ZERO, Duration::from_secs(2)]);
        let words = |index: usize| {
            let text = &trace.sessions[index].turns[0].text;
            text.split(' ').map(str::to_owned).collect::<Vec<_>>()
        };
        let (first, second) = (words(0), words(1));
        assert_eq!((first.len(), second.len()), (1000, 600));
        assert_eq!(first[..512], second[..512]);
        assert_ne!(first[512..600], second[512..600]);
    }

    #[test]
    fn lengths_are_read_from_csv_and_json() {
        let csv = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                   5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,API log\n\
                   6.5,GPT-4,3,230,233,API log\n";
        let trace = read_text(csv).unwrap();

        assert_eq!(trace.times().collect::<Vec<_>>(), [0, 1500].map(Duration::from_millis));
        assert_eq!(trace.sessions[0].turns[0].text.split(' ').count(), 472);
        let json = r#"{"Timestamp": 5, "Request tokens": 4, "Response tokens": 2}"#;
        assert_eq!(read_text(json).unwrap().sessions[0].turns[0].max_tokens, Some(2));
    }

    #[test]
    fn prompts_are_sent_as_they_are() {
        let text = r#"{"timestamp": 1, "prompt": "hi", "max_tokens": 4, "body": {"seed": 1}}
                      {"timestamp": 2, "messages": [{"role": "user", "content": "x"}]}"#;
        let trace = read_text(text).unwrap();

        assert_eq!(trace.sessions[0].turns[0].fields["seed"], 1);
        assert_eq!(trace.sessions[1].before.len(), 1);
    }

    #[test]
    fn nonsense_is_named_with_its_place() {
        let reason = |text: &str| read_text(text).unwrap_err().to_string();

        assert!(reason("{\"prompt\": \"a\"}\n{").ends_with("record 2: not JSON at column 1"));
        assert!(reason("{\"x\": 1}").contains("record 1: of no format"));
        assert!(reason("{\"prompt\": 1}").contains("record 1: fields are missing"));
        assert!(
            reason("{\"input_length\": -1, \"output_length\": 1}").contains("number of tokens")
        );
        assert!(reason("{\"prompt\": \"a\", \"timestamp\": -1}").contains("timestamp"));
        assert!(reason("").ends_with("has no request that can be sent"));
        assert!(reason("[1").contains("no array"));
    }
}
