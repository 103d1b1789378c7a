use super::{Case, ToolFormat};

const fn harmony(text: &'static str) -> Case {
    Case::new(ToolFormat::Harmony, text)
}

pub(super) const CASES: &[Case] = &[
    harmony("").verbatim(),
    harmony("No messages at all, <|x|>.").verbatim(),
    harmony("to be or not").verbatim(),
    harmony("<|channel|>final<|message|>2 + 2 = 4.\n<|return|>").content("2 + 2 = 4.\n"),
    harmony("<|channel|>analysis<|message|>Simple.\n\nYes.<|end|><|start|>assistant<|channel|>final<|message|>Four {<|constrain|>.")
        .reasoning("Simple.\n\nYes.")
        .content("Four {<|constrain|>."),
    harmony("<|channel|>analysis<|message|>Weather.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>")
        .reasoning("Weather.")
        .calls(&[("get_weather", r#"{"city": "Paris"}"#)]),
    // The end tokens are not part of what is read.
    harmony("<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"<|call|>}\"}")
        .calls(&[("get_weather", r#"{"city": "<|call|>}"}"#)]),
    // The recipient before the channel.
    harmony(" to=functions.ping<|channel|>commentary json<|message|>{}<|call|>").calls(&[("ping", "{}")]),
    harmony("<|channel|>analysis<|message|>a<|end|><|start|>assistant to=functions.ping<|channel|>commentary<|message|> {} <|call|>")
        .reasoning("a")
        .calls(&[("ping", "{}")]),
    // A preamble for the user, then two calls.
    harmony("<|channel|>commentary<|message|>I'll look.<|end|><|start|>assistant<|channel|>commentary to=functions.ping<|message|>{}<|call|><|start|>assistant<|channel|>analysis to=functions.search code<|message|>{\"query\": \"x\"}<|call|>")
        .content("I'll look.")
        .calls(&[("ping", "{}"), ("search", r#"{"query": "x"}"#)]),
    harmony("<|channel|>commentary to=functions.ping<|message|><|call|>").calls(&[("ping", "{}")]),
    // Tools of OpenAI's own.
    harmony("<|channel|>analysis to=python code<|message|>print(1)<|call|>").reasoning("print(1)"),
    harmony("<|channel|>analysis to=search<|message|>{}<|call|>").calls(&[("search", "{}")]),
    // Ends that are missing.
    harmony("<|channel|>analysis<|message|>a<|channel|>final<|message|>b").reasoning("a").content("b"),
    harmony("<|channel|>commentary to=functions.ping<|message|>{\"a\": [<|end|><|start|>assistant<|channel|>final<|message|>b")
        .calls(&[("ping", r#"{"a": ["#)])
        .content("b"),
    // No call.
    harmony("<|channel|>commentary to=functions.ping<|message|>ping()<|call|>")
        .content("<|channel|>commentary to=functions.ping<|message|>ping()"),
    // Cut off.
    harmony("<|channel|>anal"),
    harmony("<|channel|>analysis<|message|>Hm.<|end|><|start|>assist").reasoning("Hm."),
    harmony("<|channel|>commentary to=functions.ping").verbatim(),
    harmony("<|channel|>commentary to=functions.ping<|message|>{\"a\"").calls(&[("ping", r#"{"a""#)]),
];
