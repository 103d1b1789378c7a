use super::{Case, ToolFormat};

const fn hermes(text: &'static str) -> Case {
    Case::new(ToolFormat::Hermes, text)
}

const fn llama(text: &'static str) -> Case {
    Case::new(ToolFormat::Llama, text)
}

const fn mistral(text: &'static str) -> Case {
    Case::new(ToolFormat::Mistral, text)
}

const fn bare(text: &'static str) -> Case {
    Case::new(ToolFormat::Json, text)
}

pub(super) const HERMES: &[Case] = &[
    hermes("").verbatim(),
    hermes("Just text, 1 < 2 and <b>bold</b>.\n").verbatim(),
    hermes(" <tool_cal").verbatim(),
    hermes("<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>")
        .calls(&[("get_weather", r#"{"city": "Paris"}"#)]),
    hermes(
        "Let me look.\n\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n\
         </tool_call>\n<tool_call>\n{\"name\": \"ping\", \"arguments\": {}}\n</tool_call>\nOne moment. ",
    )
    .content("Let me look.\nOne moment. ")
    .calls(&[("get_weather", r#"{"city": "Paris"}"#), ("ping", "{}")]),
    // The order of members, members that mean nothing here, no arguments.
    hermes(r#"<tool_call>{"id": 7, "x": [{"name": "no"}], "arguments": {"a": "}"}, "name": "ping"}</tool_call>"#)
        .calls(&[("ping", r#"{"a": "}"}"#)]),
    hermes(r#"<tool_call>{"name": "ping"}</tool_call>"#).calls(&[("ping", "{}")]),
    hermes(r#"<tool_call>{"name": "ping", "arguments": null}</tool_call>"#).calls(&[("ping", "{}")]),
    hermes(r#"<tool_call>{"arguments": {"a":1}, "name": "f\u00e9"}</tool_call>"#)
        .calls(&[("fé", r#"{"a":1}"#)]),
    // Arguments as a string with JSON in it.
    hermes(r#"<tool_call>{"name": "f", "arguments": "{\"a\": \"\\\"\"}"}</tool_call>"#)
        .calls(&[("f", r#"{"a": "\""}"#)]),
    hermes(r#"<tool_call>{"name": "f", "arguments": "plain"}</tool_call>"#).verbatim(),
    // Markers and brackets in strings.
    hermes(r#"<tool_call>{"name": "f", "arguments": {"s": "</tool_call>{[\"\\", "d": {"e": [1, {}]}}}</tool_call>"#)
        .calls(&[("f", r#"{"s": "</tool_call>{[\"\\", "d": {"e": [1, {}]}}"#)]),
    hermes(r#"<tool_call>{"name": "f", "arguments": {"é": "日本 😀 \u65e5"}} </tool_call>"#)
        .calls(&[("f", r#"{"é": "日本 😀 \u65e5"}"#)]),
    // Braces that are missing or too many.
    hermes(r#"<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call> ok"#)
        .calls(&[("f", r#"{"a": 1}"#)])
        .content("ok"),
    hermes(r#"<tool_call>{"name": "f", "arguments": {"a": 1}}}</tool_call> ok"#)
        .calls(&[("f", r#"{"a": 1}"#)])
        .content("ok"),
    hermes(r#"<tool_call>{"name": "f", "arguments": {"a": {</tool_call>ok"#)
        .calls(&[("f", r#"{"a": {"#)])
        .content("ok"),
    hermes(r#"<tool_call>{"name": "f", "arguments": {}} and more </tool_call>ok"#)
        .calls(&[("f", "{}")])
        .content("and more ok"),
    // What is no call stays as it is.
    hermes("<tool_call>\nget_weather(Paris)\n</tool_call>").verbatim(),
    hermes(r#"I write <tool_call>{"name": 3, "arguments": {}}</tool_call> for this."#).verbatim(),
    hermes(r#"<tool_call>{"name": "", "arguments": {}}</tool_call>"#).verbatim(),
    hermes(r#"<tool_call>{"arguments": {}}</tool_call>"#).verbatim(),
    hermes(r#"<tool_call>{"name": "f", "arguments": [1]}</tool_call>"#).verbatim(),
    hermes("<tool_call></tool_call>").verbatim(),
    hermes(r#"<tool_call><tool_call>{"name": "ping", "arguments": {}}</tool_call>"#)
        .content("<tool_call>")
        .calls(&[("ping", "{}")]),
    // Cut off.
    hermes(r#"a <tool_call>{"name": "get_weather", "argu"#).verbatim(),
    hermes(r#"<tool_call>{"name": "get_weather", "arguments": {"city": "Par"#)
        .calls(&[("get_weather", r#"{"city": "Par"#)]),
    hermes(r#"<tool_call>{"name": "get_weather", "arguments": {"city": "P"}"#)
        .calls(&[("get_weather", r#"{"city": "P"}"#)]),
    hermes(r#"<tool_call>{"name": "ping", "arguments": {}}</tool_"#)
        .calls(&[("ping", "{}")])
        .content("</tool_"),
];

pub(super) const LLAMA: &[Case] = &[
    llama("The sum is {4}.").verbatim(),
    llama(r#"{"name": "get_weather", "parameters": {"city": "Paris"}}"#)
        .calls(&[("get_weather", r#"{"city": "Paris"}"#)]),
    llama(r#"<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "P"}}"#)
        .calls(&[("get_weather", r#"{"city": "P"}"#)]),
    llama(
        r#"<|python_tag|>{"name": "ping", "parameters": {}}; {"name": "ping", "arguments": {"a": ";"}}"#,
    )
    .calls(&[("ping", "{}"), ("ping", r#"{"a": ";"}"#)]),
    llama("{\"name\": \"ping\", \"parameters\": {}}\n{\"function\": \"search\", \"parameters\": {\"query\": \"<|python_tag|>\"}}\nThat's it.")
        .calls(&[("ping", "{}"), ("search", r#"{"query": "<|python_tag|>"}"#)])
        .content("That's it."),
    llama(r#"<|python_start|>{"name": "ping", "parameters": {}}<|python_end|>"#)
        .calls(&[("ping", "{}")]),
    // An answer that looks like a call.
    llama(r#"{"name": "Paris", "parameters": {"population": 2}}"#).verbatim(),
    llama(r#"{"name": "ping", "age": 3}"#).verbatim(),
    llama(r#"{"name": "ping"}"#).verbatim(),
    llama("Use {\"name\": \"ping\", \"parameters\": {}} to ping.").verbatim(),
    llama(r#"<|python_tag|>print(1 + 1)"#).verbatim(),
    llama(r#"{"name": "ping", "parameters": {}}; and then"#)
        .calls(&[("ping", "{}")])
        .content("; and then"),
    llama(r#"{"name": "pi"#).verbatim(),
];

pub(super) const MISTRAL: &[Case] = &[
    mistral("An array: [1, 2].").verbatim(),
    mistral(r#"[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]"#)
        .calls(&[("get_weather", r#"{"city": "Paris"}"#)]),
    mistral(
        r#"Sure.[TOOL_CALLS][{"name": "ping", "arguments": {}, "id": "a]}"}, {"arguments": {"query": "]}["}, "name": "search"}] "#,
    )
    .content("Sure.")
    .calls(&[("ping", "{}"), ("search", r#"{"query": "]}["}"#)]),
    mistral(r#"[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]ping{}"#)
        .calls(&[("get_weather", r#"{"city": "Paris"}"#), ("ping", "{}")]),
    mistral(r#"Hm. [TOOL_CALLS] search [CALL_ID]a1b2c3d4e[ARGS] {"query": "[TOOL_CALLS]x{"}"#)
        .content("Hm.")
        .calls(&[("search", r#"{"query": "[TOOL_CALLS]x{"}"#)]),
    mistral(r#"[TOOL_CALLS]{"name": "ping", "arguments": {}}"#).calls(&[("ping", "{}")]),
    mistral(r#"[TOOL_CALLS] [{"name": "ping", "arguments": {}}, 3] "#)
        .calls(&[("ping", "{}")])
        .content(", 3] "),
    mistral("[TOOL_CALLS] []").verbatim(),
    mistral("[TOOL_CALLS]no call at all").verbatim(),
    mistral("[TOOL_CALLS]ping[ARGS]3").verbatim(),
    mistral("[TOOL_CALLS]pi").verbatim(),
    mistral(r#"[TOOL_CALLS] [{"name": "ping", "#).verbatim(),
    mistral(r#"[TOOL_CALLS]ping[ARGS]{"a": [tru[TOOL_CALLS]ping[ARGS]{}"#)
        .calls(&[("ping", r#"{"a": [tru"#), ("ping", "{}")]),
];

pub(super) const JSON: &[Case] = &[
    bare("Hello {\"a\": 1}").verbatim(),
    bare("{\"answer\": 42}").verbatim(),
    bare("[1, 2, 3]").verbatim(),
    bare("[]").verbatim(),
    bare("{{{{").verbatim(),
    bare(r#" {"name": "ping", "arguments": {}}"#).calls(&[("ping", "{}")]),
    bare("I call:\n[{\"name\": \"ping\", \"arguments\": {}},\n {\"name\": \"search\", \"parameters\": {\"query\": \"x\"}}]\nDone.")
        .content("I call:\nDone.")
        .calls(&[("ping", "{}"), ("search", r#"{"query": "x"}"#)]),
    bare(r#"[{"name": "ping", "arguments": {}}, {"name": "other", "arguments": {}}]"#)
        .calls(&[("ping", "{}")])
        .content(r#", {"name": "other", "arguments": {}}]"#),
    bare(r#"{"arguments": {"query": "q"}, "name": "search"}"#)
        .calls(&[("search", r#"{"query": "q"}"#)]),
];
