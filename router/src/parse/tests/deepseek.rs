use super::{Case, ToolFormat};

const fn v3(text: &'static str) -> Case {
    Case::new(ToolFormat::DeepSeekV3, text)
}

const fn v31(text: &'static str) -> Case {
    Case::new(ToolFormat::DeepSeekV31, text)
}

pub(super) const CASES: &[Case] = &[
    v3("Text with <｜ and ```json blocks```.").verbatim(),
    v3("Wait.\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>")
        .content("Wait.")
        .calls(&[("get_weather", r#"{"city": "Paris"}"#)]),
    v3("<｜tool▁calls▁begin｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>ping\n```json\n{}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n```json\n{\n  \"query\": \"```<｜tool▁call▁end｜>}\"\n}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>\nDone.")
        .content("Done.")
        .calls(&[("ping", "{}"), ("search", "{\n  \"query\": \"```<｜tool▁call▁end｜>}\"\n}")]),
    v31("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Paris\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>ping<｜tool▁sep｜>\n{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>")
        .calls(&[("get_weather", r#"{"city": "Paris"}"#), ("ping", "{}")]),
    v31("<｜tool▁call▁begin｜>ping<｜tool▁sep｜>{\"é\": {\"a\": [\"日\\\"\"]}}}<｜tool▁call▁end｜> x")
        .calls(&[("ping", r#"{"é": {"a": ["日\""]}}"#)])
        .content("x"),
    v31("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>ping<｜tool▁sep｜>{\"a\": [<｜tool▁call▁end｜><｜tool▁calls▁end｜>x")
        .calls(&[("ping", r#"{"a": ["#)])
        .content("x"),
    v31("<｜tool▁calls▁begin｜>nothing<｜tool▁calls▁end｜>").verbatim(),
    v31("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>ping<｜tool▁call▁end｜><｜tool▁calls▁end｜>").verbatim(),
    v31("<｜tool▁call▁begin｜><｜tool▁sep｜>{}<｜tool▁call▁end｜>").verbatim(),
    v31("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>pi").verbatim(),
    v3("<｜tool▁call▁begin｜>function<｜tool▁sep｜>ping\n```python\n").verbatim(),
    v31("<｜tool▁call▁begin｜>ping<｜tool▁sep｜>{\"a\": 1").calls(&[("ping", r#"{"a": 1"#)]),
];
