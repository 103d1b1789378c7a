//! What was said so far, and how the next answer is asked for.

use std::path::Path;

use anyhow::{Context, bail};
use sconce_client::{ChatRequest, Message, Role, StreamOptions};
use serde_json::Value;

use super::command::Change;

/// Fields that a chat sets by itself.
const OWN_FIELDS: &[&str] = &["model", "messages", "stream", "stream_options", "tools", "n"];

/// What was said so far, and how the next answer is asked for.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    /// The next request, without what will be said.
    pub(super) request: ChatRequest,
}

impl Conversation {
    pub(super) fn new(model: String) -> Self {
        let mut request = ChatRequest::new(model);
        request.stream_options = Some(StreamOptions { include_usage: true });
        Self { request }
    }

    /// Sets, or takes away, what the model is told before everything else.
    pub(super) fn set_system(&mut self, text: Option<String>) {
        let messages = &mut self.request.messages;
        messages.retain(|message| message.role != Role::System);
        if let Some(text) = text {
            messages.insert(0, Message::new(Role::System, text));
        }
    }

    /// Makes the change, and returns what there is to tell of it.
    pub(super) fn change(&mut self, change: Change) -> anyhow::Result<String> {
        match change {
            Change::System(text) => self.set_system(text),
            Change::Set(name, value) => self.set(&name, value)?,
            Change::Unset(name) => self.set(&name, Value::Null)?,
            Change::Clear => self.request.messages.retain(|message| message.role == Role::System),
            Change::Show => return Ok(self.show()),
            Change::Save(path) => return self.save(&path),
            Change::Load(path) => return self.load(&path),
        }
        Ok(String::new())
    }

    /// Sets a parameter; null takes it away. The server says whether it knows the name.
    fn set(&mut self, name: &str, value: Value) -> anyhow::Result<()> {
        if OWN_FIELDS.contains(&name) {
            bail!("{name} can't be set in a chat");
        }
        let wrong = || format!("{name} is not of this type");
        let request = &mut self.request;
        match name {
            "temperature" => request.temperature = from(value).with_context(wrong)?,
            "top_p" => request.top_p = from(value).with_context(wrong)?,
            "seed" => request.seed = from(value).with_context(wrong)?,
            "max_completion_tokens" | "max_tokens" => {
                request.max_completion_tokens = from(value).with_context(wrong)?;
            }
            "stop" => {
                request.stop = match value {
                    Value::Null => Vec::new(),
                    Value::String(text) => vec![text],
                    list => serde_json::from_value(list).ok().with_context(wrong)?,
                };
            }
            _ if value.is_null() => {
                if request.extra.shift_remove(name).is_none() {
                    bail!("{name} is not set");
                }
            }
            _ => {
                request.extra.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    fn show(&self) -> String {
        let mut text = format!("model       {}\n", self.request.model);
        let fields = serde_json::to_value(&self.request).unwrap_or_default();
        for (name, value) in fields.as_object().into_iter().flatten() {
            if !OWN_FIELDS.contains(&name.as_str()) {
                text += &format!("{name}  {value}\n");
            }
        }
        let system = self.request.messages.iter().find(|message| message.role == Role::System);
        if let Some(system) = system.and_then(|message| message.content.as_deref()) {
            text += &format!("system      {system}\n");
        }
        let said = self.request.messages.iter().filter(|message| message.role != Role::System);
        text + &format!("messages    {}\n", said.count())
    }

    fn save(&self, path: &Path) -> anyhow::Result<String> {
        let json = serde_json::to_string_pretty(&self.request.messages)? + "\n";
        std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
        Ok(format!("saved {} messages\n", self.request.messages.len()))
    }

    fn load(&mut self, path: &Path) -> anyhow::Result<String> {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let messages: Vec<Message> = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no conversation", path.display()))?;
        self.request.messages = messages;
        Ok(format!("loaded {} messages\n", self.request.messages.len()))
    }
}

/// A value of the right type, or none at all.
fn from<T: serde::de::DeserializeOwned>(value: Value) -> Option<Option<T>> {
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(conversation: &mut Conversation, name: &str, value: Value) -> anyhow::Result<()> {
        conversation.change(Change::Set(name.to_owned(), value)).map(drop)
    }

    #[test]
    fn parameters_are_set_and_taken_away() {
        let mut chat = Conversation::new("m".to_owned());

        set(&mut chat, "temperature", json!(0.5)).unwrap();
        set(&mut chat, "stop", json!("END")).unwrap();
        set(&mut chat, "top_k", json!(4)).unwrap();
        assert_eq!(chat.request.temperature, Some(0.5));
        assert_eq!(
            (&chat.request.stop[..], &chat.request.extra["top_k"]),
            (&["END".to_owned()][..], &json!(4))
        );
        assert!(chat.show().contains("temperature  0.5"), "{}", chat.show());
        for name in ["temperature", "stop", "top_k"] {
            chat.change(Change::Unset(name.to_owned())).unwrap();
        }
        assert_eq!(chat.request.temperature, None);
        assert!(chat.request.stop.is_empty() && chat.request.extra.is_empty());
        assert!(set(&mut chat, "temperature", json!("hot")).is_err());
        assert!(set(&mut chat, "messages", json!([])).is_err());
        assert!(chat.change(Change::Unset("nothing".to_owned())).is_err());
    }

    #[test]
    fn clearing_leaves_what_the_model_is_told() {
        let mut chat = Conversation::new("m".to_owned());
        chat.request.messages.push(Message::new(Role::User, "a"));
        chat.set_system(Some("s".to_owned()));
        chat.set_system(Some("t".to_owned()));

        chat.change(Change::Clear).unwrap();

        assert_eq!(chat.request.messages, [Message::new(Role::System, "t")]);
    }

    #[test]
    fn a_conversation_is_loaded_as_it_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.json");
        let mut chat = Conversation::new("m".to_owned());
        chat.request.messages.push(Message::new(Role::User, "a"));
        chat.change(Change::Save(path.clone())).unwrap();

        let mut other = Conversation::new("m".to_owned());
        other.change(Change::Load(path.clone())).unwrap();

        assert_eq!(other.request.messages, chat.request.messages);
        std::fs::write(&path, "{}").unwrap();
        assert!(other.change(Change::Load(path)).is_err());
    }
}
