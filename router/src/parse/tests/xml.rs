use super::{Case, ToolFormat};

const fn xml(text: &'static str) -> Case {
    Case::new(ToolFormat::QwenXml, text)
}

pub(super) const CASES: &[Case] = &[
    xml("Plain <b>text</b>, </function> and </tool_call>.").verbatim(),
    xml("<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>")
        .calls(&[("get_weather", r#"{"city":"Paris","days":3}"#)]),
    xml("On it.\n<tool_call>\n<function=ping>\n</function>\n</tool_call>\n<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n</function>\n</tool_call>\nBye")
        .content("On it.\nBye")
        .calls(&[("ping", "{}"), ("get_weather", r#"{"city":"12"}"#)]),
    xml("<tool_call><function=search><parameter=query>a \"quoted\"\\\n\n\tline\n\n</parameter><parameter=filters>{\"tags\": [\"</parameter\"]}</parameter><parameter=limit>null</parameter><parameter=exact>True</parameter></function></tool_call>")
        .calls(&[(
            "search",
            r#"{"query":"a \"quoted\"\\\n\n\tline\n","filters":{"tags": ["</parameter"]},"limit":null,"exact":true}"#,
        )]),
    xml("<tool_call><function=search><parameter=filters>{\"tags\": [\"</parameter>\"]}</parameter></function></tool_call>")
        .calls(&[("search", r#"{"filters":{"tags": ["</parameter>"]}}"#)]),
    // Values that are not what the schema says, and parameters that are not in it.
    xml("<tool_call><function=search><parameter=limit>\nmany\n</parameter><parameter=filters>{'tags': ['a']}</parameter><parameter=new>[1]</parameter><parameter=other>x y</parameter></function></tool_call>")
        .calls(&[("search", r#"{"limit":"many","filters":{"tags":["a"]},"new":[1],"other":"x y"}"#)]),
    xml("<tool_call><function=get_weather><parameter=city>\n</parameter></function></tool_call>")
        .calls(&[("get_weather", r#"{"city":""}"#)]),
    xml("<tool_call><function=get_weather><parameter=city>\n<tool_call><function=\u{1}é日😀</function>\n</parameter></function></tool_call>")
        .calls(&[("get_weather", "{\"city\":\"<tool_call><function=\\u0001é日😀</function>\"}")]),
    // Without the outer marker.
    xml("<function=ping>\n</function>\n</tool_call>").calls(&[("ping", "{}")]),
    xml("A <function=unknown> in the text.</function>").verbatim(),
    // Ends that are missing.
    xml("<tool_call><function=get_weather><parameter=city>P</parameter></tool_call> ok")
        .calls(&[("get_weather", r#"{"city":"P"}"#)])
        .content("ok"),
    xml("<tool_call><function=get_weather><parameter=city>P</parameter> and </function></tool_call> ok")
        .calls(&[("get_weather", r#"{"city":"P"}"#)])
        .content("and  ok"),
    xml("<tool_call><function=get_weather><parameter=city\n</function></tool_call>")
        .calls(&[("get_weather", "{}")])
        .content("<parameter=city\n"),
    // No call.
    xml("<tool_call>\n{\"name\": \"ping\"}\n</tool_call>").verbatim(),
    xml("<tool_call><function=></function></tool_call>").verbatim(),
    // Cut off.
    xml("<tool_call>\n<function=get_wea").verbatim(),
    xml("<tool_call>\n<function=get_weather>\n<parameter=city>\nPar").calls(&[("get_weather", r#"{"city":"Par"#)]),
    xml("<tool_call>\n<function=get_weather>\n<parameter=days>\n1").calls(&[("get_weather", r#"{"days":1"#)]),
];
