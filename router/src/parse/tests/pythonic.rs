use super::{Case, ToolFormat};

const fn pythonic(text: &'static str) -> Case {
    Case::new(ToolFormat::Pythonic, text)
}

pub(super) const CASES: &[Case] = &[
    pythonic("See [1] and f(x).").verbatim(),
    pythonic("[1, 2]").verbatim(),
    pythonic("[a link](http://x)").verbatim(),
    pythonic(r#"[get_weather(city="Paris")]"#).calls(&[("get_weather", r#"{"city":"Paris"}"#)]),
    pythonic("[get_weather(city='Par)]is', days=3), search(query=\"a\\\"b\", filters={'tags': ['x', \"y\"]}, limit=None, exact=False), ping()]")
        .calls(&[
            ("get_weather", r#"{"city":"Par)]is","days":3}"#),
            ("search", r#"{"query":"a\"b","filters":{"tags":["x","y"]},"limit":null,"exact":false}"#),
            ("ping", "{}"),
        ]),
    pythonic("I'll ping.\n[ping( ),\n ping()]\nDone: é😀").content("I'll ping.\nDone: é😀").calls(&[("ping", "{}"), ("ping", "{}")]),
    pythonic("<|python_start|>[ping()]<|python_end|>").calls(&[("ping", "{}")]),
    pythonic("<|python_start|>ping()<|python_end|>").calls(&[("ping", "{}")]),
    pythonic("[unknown(a=1)]").verbatim(),
    pythonic("[get_weather('Paris')]").verbatim(),
    pythonic("[get_weather(city=Paris)]").verbatim(),
    pythonic("[ping(), other()]").calls(&[("ping", "{}")]).content(", other()]"),
    pythonic("[get_weather(city=\"Par").verbatim(),
    pythonic("[ping(), get_weather(ci").calls(&[("ping", "{}")]).content(", get_weather(ci"),
];
