//! What is printed once everything is ready: for a newcomer, or as JSON.

use serde::{Deserialize, Serialize};

use crate::cli::output::table;
use crate::controller::PhasesMs;

/// A server that is ready. As JSON, also what a server in the background says to whoever started it.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::cli) struct Ready {
    /// What clients call the models.
    pub(in crate::cli) models: Vec<String>,
    /// Where it is, without a path.
    pub(in crate::cli) url: String,
    #[serde(flatten)]
    pub(in crate::cli) access: Access,
    pub(super) phases_ms: Phases,
    /// From the start of the process.
    pub(super) ready_ms: u64,
}

/// How clients get in.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "auth", rename_all = "snake_case")]
pub(in crate::cli) enum Access {
    /// With a key that was made just now.
    NewKey {
        /// The key.
        api_key: String,
    },
    /// With one that was made before.
    KnownKey,
    /// Without one.
    None,
}

/// What a start spent its time on, in milliseconds.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Phases {
    /// The models' files: fetched, or looked at.
    pub(super) files: u64,
    /// Whether and how the models fit into memory.
    pub(super) plan: u64,
    /// The router, while the workers load.
    pub(super) router: u64,
    /// Each version's worker, as it says itself. Those that were there already are not in it.
    pub(super) workers: PhasesMs,
}

impl Phases {
    fn table(&self) -> String {
        let row = |name: &str, ms: String, of_it: String| vec![name.to_owned(), ms, of_it];
        let ms = |ms: u64| format!("{ms} ms");
        let mut rows = vec![
            row("START-UP", "TIME".to_owned(), "OF IT".to_owned()),
            row("files", ms(self.files), String::new()),
            row("plan", ms(self.plan), String::new()),
            row("router", ms(self.router), "while workers load".to_owned()),
        ];
        for (version, phases) in &self.workers {
            let total = phases.get("total").and_then(serde_json::Value::as_f64);
            let parts =
                phases.iter().filter(|(phase, _)| *phase != "total").filter_map(|(phase, ms)| {
                    Some(format!("{} {:.0}", phase.replace('_', " "), ms.as_f64()?))
                });
            let total = total.map_or_else(String::new, |ms| format!("{ms:.0} ms"));
            rows.push(row(version, total, parts.collect::<Vec<_>>().join(", ")));
        }
        table(&rows)
    }
}

impl std::fmt::Display for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { models, url, access, phases_ms, ready_ms } = self;
        let model = models.first().map_or("", String::as_str);
        writeln!(f, "serving {}", models.join(", "))?;
        writeln!(f, "base URL  {url}/v1")?;
        let header = match access {
            Access::NewKey { api_key } => {
                writeln!(f, "API key   {api_key}  (shown this once; keep it)")?;
                format!(" -H 'Authorization: Bearer {api_key}'")
            }
            Access::KnownKey => {
                writeln!(f, "API key   yours; `sconce keys create` makes another")?;
                " -H \"Authorization: Bearer $SCONCE_API_KEY\"".to_owned()
            }
            Access::None => String::new(),
        };
        writeln!(f)?;
        writeln!(
            f,
            "curl {url}/v1/chat/completions{header} \
             -H 'Content-Type: application/json' -d '{{\"model\":\"{model}\",\
             \"messages\":[{{\"role\":\"user\",\"content\":\"Say hello in one sentence.\"}}]}}'"
        )?;
        writeln!(f, "\n{}", phases_ms.table())?;
        writeln!(f, "ready in {ready_ms} ms")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ready() -> Ready {
        let phases = json!({ "open": 30.4, "first_step": 7.0, "total": 470.1 });
        let workers = [("smollm2@1".to_owned(), phases.as_object().cloned().unwrap())].into();
        Ready {
            models: vec!["smollm2:135m".to_owned(), "qwen3:prod".to_owned()],
            url: "http://127.0.0.1:8000".to_owned(),
            access: Access::NewKey { api_key: "sk-x".to_owned() },
            phases_ms: Phases { files: 2, plan: 28, router: 41, workers },
            ready_ms: 512,
        }
    }

    #[test]
    fn the_curl_line_is_one_line_with_the_key_in_it() {
        let text = ready().to_string();

        assert!(text.starts_with("serving smollm2:135m, qwen3:prod\n"), "{text}");
        let curl = text.lines().find(|line| line.starts_with("curl ")).unwrap();
        assert!(curl.contains("http://127.0.0.1:8000/v1/chat/completions"), "{curl}");
        assert!(curl.contains("Bearer sk-x"));
        assert!(curl.ends_with(r#"[{"role":"user","content":"Say hello in one sentence."}]}'"#));
        assert!(text.ends_with("ready in 512 ms\n"));
    }

    #[test]
    fn a_table_says_what_the_start_spent_its_time_on() {
        let text = ready().to_string();

        for line in [
            "START-UP   TIME    OF IT",
            "plan       28 ms",
            "router     41 ms   while workers load",
            "smollm2@1  470 ms  open 30, first step 7",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }

    #[test]
    fn programs_read_what_people_read() {
        let value = serde_json::to_value(ready()).unwrap();

        assert_eq!(value["auth"], "new_key");
        assert_eq!(value["api_key"], "sk-x");
        assert_eq!(value["phases_ms"]["workers"]["smollm2@1"]["open"], 30.4);
        let read: Ready = serde_json::from_value(value).unwrap();
        assert_eq!(read.to_string(), ready().to_string());
        let open = serde_json::to_value(Ready { access: Access::None, ..ready() }).unwrap();
        assert_eq!((&open["auth"], open.get("api_key")), (&json!("none"), None));
    }
}
