//! However a text is cut, the same comes out of it, and in a time that grows with the text.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Case, Formats, Parsed, Parser, ReasoningFormat, Start, ToolFormat, all, tools};

/// Outputs up to this length are cut in two places, in every way.
const SHORT: usize = 64;

fn boundaries(text: &str) -> Vec<usize> {
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect()
}

fn cut<'a>(text: &'a str, cuts: &[usize]) -> Vec<&'a str> {
    let ends = cuts.iter().copied().chain([text.len()]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    starts.zip(ends).map(|(start, end)| &text[start..end]).collect()
}

#[test]
fn one_cut_anywhere_changes_nothing() {
    for case in all() {
        let whole = Parsed::of(case.parser(), [case.text]);
        for at in boundaries(case.text) {
            let parsed = Parsed::of(case.parser(), cut(case.text, &[at]));
            assert_eq!(parsed, whole, "{} at {at}", case.text);
        }
    }
}

#[test]
fn two_cuts_anywhere_change_nothing() {
    for case in all().filter(|case| case.text.len() <= SHORT) {
        let whole = Parsed::of(case.parser(), [case.text]);
        let boundaries = boundaries(case.text);
        for (i, first) in boundaries.iter().enumerate() {
            for second in &boundaries[i..] {
                let parsed = Parsed::of(case.parser(), cut(case.text, &[*first, *second]));
                assert_eq!(parsed, whole, "{} at {first} and {second}", case.text);
            }
        }
    }
}

#[test]
fn single_characters_change_nothing() {
    for case in all() {
        let boundaries = boundaries(case.text);
        let parsed = Parsed::of(case.parser(), cut(case.text, &boundaries));
        assert_eq!(parsed, Parsed::of(case.parser(), [case.text]), "{}", case.text);
    }
}

/// Every beginning of an output is an output too.
#[test]
fn what_is_cut_off_loses_no_text() {
    for case in all().filter(|case| case.reasoning.is_empty() && case.calls.is_empty()) {
        // Of harmony's messages, headers are no text.
        if case.content != case.text || case.formats.tools == Some(ToolFormat::Harmony) {
            continue;
        }
        for at in boundaries(case.text) {
            let parsed = Parsed::of(case.parser(), [&case.text[..at]]);
            let is_call = !parsed.calls.is_empty();
            assert!(is_call || parsed.content.len() + parsed.reasoning.len() == at, "{parsed:?}");
        }
    }
}

fn any_formats() -> impl Strategy<Value = Formats> {
    let tools = prop::option::of(prop::sample::select(ToolFormat::ALL.as_slice()));
    let reasoning = prop::option::of(prop::sample::select(ReasoningFormat::ALL.as_slice()));
    (tools, reasoning).prop_map(|(tools, reasoning)| Formats { tools, reasoning })
}

/// Markers, beginnings of them, and what is usual between them.
fn any_output(formats: Formats) -> impl Strategy<Value = String> {
    let mut parts: Vec<&str> = formats.markers().collect();
    parts.extend([
        "{", "}", "[", "]", "(", ")", "\"", "'", "\\", ",", ":", ";", "=", ">", "\n", " ",
    ]);
    parts.extend(["\"name\"", "\"arguments\"", "{\"name\": \"ping\", \"arguments\": {", "ping"]);
    parts.extend([
        "to=functions.ping",
        "analysis",
        "city",
        "<",
        "</",
        "[T",
        "<|",
        "é",
        "😀",
        "1",
        "x",
    ]);
    prop::collection::vec(prop::sample::select(parts), 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_cuts_change_anything(
        (formats, text) in any_formats().prop_flat_map(|f| (Just(f), any_output(f))),
        starts_inside in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let start = if starts_inside { Start::Reasoning } else { Start::Answer };
        let parser = || Parser::new(formats, start, &tools());
        let boundaries = boundaries(&text);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut.get(&boundaries)).collect();
        cuts.sort_unstable();

        prop_assert_eq!(Parsed::of(parser(), cut(&text, &cuts)), Parsed::of(parser(), [&*text]));
    }

    #[test]
    fn any_cuts_of_real_outputs_change_nothing(
        case in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let cases: Vec<&Case> = all().collect();
        let case = case.get(&cases);
        let boundaries = boundaries(case.text);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| *cut.get(&boundaries)).collect();
        cuts.sort_unstable();

        let parsed = Parsed::of(case.parser(), cut(case.text, &cuts));
        prop_assert_eq!(parsed, Parsed::of(case.parser(), [case.text]));
    }
}

fn time_of(formats: Formats, text: &str) -> Duration {
    let run = |_| {
        let begun = Instant::now();
        let mut parser = Parser::new(formats, Start::Answer, &tools());
        let mut events = Vec::new();
        for start in (0..text.len()).step_by(16) {
            let end = text.ceil_char_boundary(start + 16);
            parser.push(&text[text.ceil_char_boundary(start)..end], &mut events);
            events.clear();
        }
        parser.finish(&mut events);
        begun.elapsed()
    };
    // The machine may be busy with something else for a moment, and is not for long.
    let num_runs = if text.len() < 1 << 18 { 3 } else { 1 };
    (0..num_runs).map(run).min().unwrap()
}

/// Quadratic time would be 16 times as long.
fn check_time(tools: ToolFormat, prefix: &str, filler: &str, size: usize) {
    let formats = Formats { tools: Some(tools), reasoning: Some(ReasoningFormat::Think) };
    let text = |size: usize| format!("{prefix}{}", filler.repeat(size / filler.len()));
    let (short, long) = (time_of(formats, &text(size / 4)), time_of(formats, &text(size)));
    let limit = short * 10 + Duration::from_millis(20);
    assert!(long < limit, "{tools}: {short:?}, {long:?} for {prefix}{filler}…");
}

/// Beginnings of calls that end in a name, in arguments and in what is held back.
fn beginnings(format: ToolFormat) -> &'static [&'static str] {
    match format {
        ToolFormat::Hermes => &[
            "<tool_call>{\"name\": \"",
            "<tool_call>{\"name\": \"ping\", \"arguments\": {\"a\": \"",
            "<tool_call>{\"arguments\": {\"a\": \"",
        ],
        ToolFormat::Llama | ToolFormat::Json => &[
            "{\"name\": \"ping\", \"arguments\": {\"a\": \"",
            "{\"arguments\": {\"a\": \"",
            "{\"name\": \"ping\", \"arguments\": {}}\n",
        ],
        ToolFormat::Pythonic => &["[ping(a=\"", "[ping(a="],
        ToolFormat::Mistral => &["[TOOL_CALLS][{\"id\": \""],
        ToolFormat::MistralArgs => &["[TOOL_CALLS]", "[TOOL_CALLS]ping{\"a\": \""],
        ToolFormat::QwenXml => &[
            "<tool_call><function=",
            "<tool_call><function=get_weather><parameter=days>",
            "<tool_call><function=get_weather><parameter=city>",
        ],
        ToolFormat::DeepSeekV3 => &["<｜tool▁call▁begin｜>function<｜tool▁sep｜>"],
        ToolFormat::DeepSeekV31 => &["<｜tool▁call▁begin｜>ping<｜tool▁sep｜>{\"a\": \""],
        ToolFormat::Harmony => &[
            "<|channel|>",
            "<|channel|>analysis<|message|>",
            "<|channel|>commentary to=functions.ping<|message|>{\"a\": \"",
        ],
    }
}

#[test]
fn four_times_the_text_takes_about_four_times_as_long() {
    let fillers = ["<", "{", "[", "\n{\"name\": ", "<tool_call>", "<think>", " ", "\\", "\n[ping("];
    for tools in ToolFormat::ALL {
        for filler in fillers {
            beginnings(tools).iter().for_each(|begun| check_time(tools, begun, filler, 1 << 15));
        }
    }
}

#[test]
fn a_megabyte_of_beginnings_is_read() {
    for tools in ToolFormat::ALL {
        check_time(tools, "", "<", 1 << 20);
        check_time(tools, "", "{", 1 << 20);
        // A string that is not closed.
        check_time(tools, beginnings(tools)[0], "x", 1 << 20);
    }
}
