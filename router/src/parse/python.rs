//! Python's literals and keyword arguments, as JSON.

/// How deep lists and dictionaries may nest.
const MAX_DEPTH: usize = 64;

/// The JSON of a literal, if the whole text is one.
pub(super) fn value(text: &str) -> Option<String> {
    let mut reader = Reader::new(text);
    reader.value(MAX_DEPTH)?;
    reader.end()
}

/// The JSON object of keyword arguments in their parentheses: `(a=1, b="c")`.
pub(super) fn keyword_arguments(text: &str) -> Option<String> {
    let mut reader = Reader::new(text);
    reader.expect('(')?;
    reader.json.push('{');
    reader.items(')', |reader| {
        let key = reader.take_until('=')?.trim().to_owned();
        if key.is_empty() || key.contains(['(', '"', '\'', ',']) {
            return None;
        }
        reader.json.push_str(&quoted(&key));
        reader.expect('=')?;
        reader.json.push(':');
        reader.value(MAX_DEPTH)
    })?;
    reader.json.push('}');
    reader.end()
}

/// Finds the closing bracket of what an opening one begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    depth: usize,
    quote: Option<char>,
    is_escaped: bool,
}

impl Span {
    /// Takes the next character. Whether it is the last.
    pub(super) fn push(&mut self, c: char) -> bool {
        if let Some(quote) = self.quote {
            match c {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = true,
                c if c == quote => self.quote = None,
                _ => {}
            }
            return false;
        }
        match c {
            '"' | '\'' => self.quote = Some(c),
            '(' | '[' | '{' => self.depth += 1,
            ')' | ']' | '}' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

struct Reader<'a> {
    rest: &'a str,
    json: String,
}

impl<'a> Reader<'a> {
    fn new(rest: &'a str) -> Self {
        Self { rest, json: String::new() }
    }

    fn end(self) -> Option<String> {
        self.rest.trim().is_empty().then_some(self.json)
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, c: char) -> Option<()> {
        self.eat(c).then_some(())
    }

    fn take_until(&mut self, c: char) -> Option<&'a str> {
        let (before, _) = self.rest.split_once(c)?;
        self.rest = self.rest.get(before.len()..)?;
        Some(before)
    }

    /// Reads what is separated by commas, and the closing bracket. A last comma is allowed.
    fn items(&mut self, close: char, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        let mut is_first = true;
        while !self.eat(close) {
            if !is_first {
                self.expect(',')?;
                if self.eat(close) {
                    break;
                }
                self.json.push(',');
            }
            is_first = false;
            item(self)?;
        }
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        self.skip_space();
        match self.rest.chars().next()? {
            '"' | '\'' => self.string(),
            '[' => self.list('[', ']', depth),
            '(' => self.list('(', ')', depth),
            '{' => {
                self.next();
                self.json.push('{');
                self.items('}', |reader| {
                    reader.skip_space();
                    reader.string()?;
                    reader.expect(':')?;
                    reader.json.push(':');
                    reader.value(depth)
                })?;
                self.json.push('}');
                Some(())
            }
            _ => self.word(),
        }
    }

    fn list(&mut self, open: char, close: char, depth: usize) -> Option<()> {
        self.expect(open)?;
        self.json.push('[');
        self.items(close, |reader| reader.value(depth))?;
        self.json.push(']');
        Some(())
    }

    fn word(&mut self) -> Option<()> {
        let is_end = |c: char| c.is_whitespace() || matches!(c, ',' | ')' | ']' | '}' | ':' | '=');
        let end = self.rest.find(is_end).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        match word {
            "True" | "true" => self.json.push_str("true"),
            "False" | "false" => self.json.push_str("false"),
            "None" | "null" => self.json.push_str("null"),
            _ => self.json.push_str(&number(word)?),
        }
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        let quote = self.next().filter(|c| matches!(c, '"' | '\''))?;
        let mut text = String::new();
        loop {
            match self.next()? {
                c if c == quote => break,
                '\\' => self.escaped(&mut text)?,
                c => text.push(c),
            }
        }
        self.json.push_str(&quoted(&text));
        Some(())
    }

    /// Reads what follows a backslash. JSON's escapes are understood too.
    fn escaped(&mut self, text: &mut String) -> Option<()> {
        let c = match self.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            '0' => '\0',
            '\n' => return Some(()),
            'x' => self.code(2)?,
            'u' => self.code(4)?,
            'U' => self.code(8)?,
            c if matches!(c, '\\' | '\'' | '"' | '/') => c,
            c => {
                text.push('\\');
                c
            }
        };
        text.push(c);
        Some(())
    }

    fn code(&mut self, num_digits: usize) -> Option<char> {
        let high = self.digits(num_digits)?;
        if !(0xD800..0xDC00).contains(&high) {
            return char::from_u32(high);
        }
        self.rest = self.rest.strip_prefix("\\u")?;
        let low = self.digits(4)?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
        char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + low)
    }

    fn digits(&mut self, num: usize) -> Option<u32> {
        let (digits, rest) = self.rest.split_at_checked(num)?;
        self.rest = rest;
        u32::from_str_radix(digits, 16).ok()
    }
}

/// The JSON of a number.
fn number(word: &str) -> Option<String> {
    let plain = word.strip_prefix('+').unwrap_or(word).replace('_', "");
    if serde_json::from_str::<serde_json::Number>(&plain).is_ok() {
        return Some(plain);
    }
    if !plain.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '.')) {
        return None;
    }
    // `.5` and `5.` are numbers in Python alone.
    let value: f64 = plain.parse().ok()?;
    serde_json::Number::from_f64(value).map(|number| number.to_string())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_become_json() {
        let cases = [
            ("'it''s'", None),
            (r"'it\'s'", Some(r#""it's""#)),
            (r#""a\u00e9\U0001F600\n""#, Some(r#""aé😀\n""#)),
            (r#""\ud83d\ude00 \/ \d""#, Some(r#""😀 / \\d""#)),
            ("[1, -2.5, .5, 5., 1_000, +3,]", Some("[1,-2.5,0.5,5.0,1000,3]")),
            ("{'a': (1, None), \"b\": True}", Some(r#"{"a":[1,null],"b":true}"#)),
            ("{1: 2}", None),
            ("nan", None),
            ("-inf", None),
            ("f(x)", None),
            ("", None),
        ];
        for (python, json) in cases {
            assert_eq!(value(python).as_deref(), json, "{python}");
        }
    }

    #[test]
    fn keyword_arguments_become_an_object() {
        let cases = [
            ("()", Some("{}")),
            ("( city = 'Paris' , n=1)", Some(r#"{"city":"Paris","n":1}"#)),
            ("('Paris')", None),
            ("(a=)", None),
            ("(a=1", None),
            ("(a=1)) ", None),
        ];
        for (python, json) in cases {
            assert_eq!(keyword_arguments(python).as_deref(), json, "{python}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert_eq!(value(&"[".repeat(100_000)), None);
    }
}
