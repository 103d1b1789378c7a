//! What can be typed in a chat besides what is said.

use std::path::PathBuf;
use std::str::FromStr;

use serde_json::Value;

/// What `/?` shows.
pub(super) const HELP: &str = "\
/set system TEXT          what the model is told before everything else; without TEXT, nothing
/set NAME VALUE           a parameter: temperature, top_p, seed, max_tokens, stop, top_k, …
/set verbose | quiet      timings after each answer, or none
/set history | nohistory  whether lines are kept for the next chat
/unset NAME               the server's default again
/show                     the model, the parameters, the conversation's length
/clear                    forget the conversation
/save FILE, /load FILE    the conversation as JSON
/bye                      leave; so does Ctrl-D
\"\"\"                       begins and ends text of several lines
Ctrl-C                    stops an answer
";

/// One input.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Say(String),
    Bye,
    Help,
    Verbose(bool),
    History(bool),
    Change(Change),
}

/// What changes, or shows, a conversation.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    System(Option<String>),
    Set(String, Value),
    Unset(String),
    Show,
    Clear,
    Save(PathBuf),
    Load(PathBuf),
}

impl FromStr for Command {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some(command) = text.strip_prefix('/') else { return Ok(Self::Say(text.to_owned())) };
        let (verb, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let file = |change: fn(PathBuf) -> Change| match rest {
            "" => Err(format!("/{verb} needs a file")),
            path => Ok(Self::Change(change(path.into()))),
        };
        match verb {
            "bye" | "exit" | "quit" => Ok(Self::Bye),
            "?" | "help" => Ok(Self::Help),
            "set" => set(rest),
            "unset" if rest.is_empty() => Err("/unset needs a name".to_owned()),
            "unset" if rest == "system" => Ok(Self::Change(Change::System(None))),
            "unset" => Ok(Self::Change(Change::Unset(rest.to_owned()))),
            "show" => Ok(Self::Change(Change::Show)),
            "clear" => Ok(Self::Change(Change::Clear)),
            "save" => file(Change::Save),
            "load" => file(Change::Load),
            _ => Err(format!("there is no /{verb}; /? shows what there is")),
        }
    }
}

fn set(rest: &str) -> Result<Command, String> {
    // ollama's spelling is understood too.
    let rest = rest.strip_prefix("parameter ").unwrap_or(rest).trim();
    let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let value = value.trim();
    match (name, value) {
        ("verbose", "") => Ok(Command::Verbose(true)),
        ("quiet", "") => Ok(Command::Verbose(false)),
        ("history", "") => Ok(Command::History(true)),
        ("nohistory", "") => Ok(Command::History(false)),
        ("system", text) => {
            let text = text.trim_matches('"').trim();
            let text = (!text.is_empty()).then(|| text.to_owned());
            Ok(Command::Change(Change::System(text)))
        }
        ("", _) => Err("/set needs a name; /? shows some".to_owned()),
        (name, "") => Err(format!("/set {name} needs a value; /unset {name} takes it away")),
        (name, value) => {
            // A number, a list or a word in quotes is what it is; anything else is text.
            let json = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            let name = match name {
                "num_predict" | "max_tokens" => "max_completion_tokens",
                other => other,
            };
            Ok(Command::Change(Change::Set(name.to_owned(), json)))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn commands_are_told_from_talk() {
        let read = |text: &str| text.parse::<Command>();
        let change = |text: &str| match read(text) {
            Ok(Command::Change(change)) => change,
            other => panic!("{other:?}"),
        };
        let set = |name: &str, value: Value| Change::Set(name.to_owned(), value);

        assert_eq!(read(" hello "), Ok(Command::Say("hello".to_owned())));
        assert_eq!(read("/bye"), Ok(Command::Bye));
        assert_eq!(read("/set verbose"), Ok(Command::Verbose(true)));
        assert_eq!(change("/set system Be brief."), Change::System(Some("Be brief.".to_owned())));
        assert_eq!(change("/set system"), Change::System(None));
        assert_eq!(change("/set temperature 0.5"), set("temperature", json!(0.5)));
        assert_eq!(change("/set parameter num_predict 9"), set("max_completion_tokens", json!(9)));
        assert_eq!(change("/set stop [\"a\"]"), set("stop", json!(["a"])));
        assert_eq!(change("/set stop END"), set("stop", json!("END")));
        assert_eq!(change("/save a b.json"), Change::Save("a b.json".into()));
        for text in ["/", "/nothing", "/set", "/set seed", "/unset", "/save"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
