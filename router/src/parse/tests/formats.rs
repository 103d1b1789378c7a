use super::{Formats, ReasoningFormat, Start, ToolFormat};

#[test]
fn names_are_read_back() {
    for format in ToolFormat::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    for format in ReasoningFormat::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    let error = "xml".parse::<ReasoningFormat>().unwrap_err().to_string();
    assert_eq!(error, "`xml` is not a format; there are think, deepseek-r1, mistral, harmony");
}

#[test]
fn templates_show_their_formats() {
    use ReasoningFormat::{DeepSeekR1, Think};
    use ToolFormat::{
        DeepSeekV3, DeepSeekV31, Harmony, Hermes, Llama, Mistral, MistralArgs, QwenXml,
    };
    let cases = [
        ("{{ message.content }}", None, None),
        ("'<tool_call>\\n{\"name\": '", Some(Hermes), None),
        ("<tool_call>{% '<think>' %}", Some(Hermes), Some(Think)),
        ("<tool_call>{name}<arg_key>", None, None),
        ("<tool_call>\n<function=example>\n<parameter=x>", Some(QwenXml), None),
        ("<seed:tool_call>\n<function=example>\n<parameter=x>", None, None),
        ("<|python_tag|><function=example>{", None, None),
        ("<tool_call><invoke name=", None, None),
        ("<|python_tag|>", Some(Llama), None),
        ("<|start_header_id|>{{- '\"parameters\": ' }}", Some(Llama), None),
        ("[TOOL_CALLS] [", Some(Mistral), None),
        ("[TOOL_CALLS]name[ARGS][THINK]", Some(MistralArgs), Some(ReasoningFormat::Mistral)),
        ("split('</think>')[-1]", None, Some(Think)),
        (
            "<｜Assistant｜><｜tool▁call▁begin｜>function\n```json</think>",
            Some(DeepSeekV3),
            Some(DeepSeekR1),
        ),
        ("<｜tool▁call▁begin｜><think></think>", Some(DeepSeekV31), Some(Think)),
        ("<|start|><|channel|><|message|>", Some(Harmony), Some(ReasoningFormat::Harmony)),
    ];
    for (template, tools, reasoning) in cases {
        assert_eq!(Formats::detect(template), Formats { tools, reasoning }, "{template}");
    }
}

#[test]
fn the_prompt_says_where_its_completion_begins() {
    let cases = [
        (ReasoningFormat::Think, "<|im_start|>assistant\n<think>\n", Start::Reasoning),
        (ReasoningFormat::Think, "<|im_start|>assistant\n<think>\n\n</think>\n\n", Start::Answer),
        (ReasoningFormat::Think, "<|im_start|>assistant\n", Start::Answer),
        (ReasoningFormat::DeepSeekR1, "<｜Assistant｜>", Start::Reasoning),
        (ReasoningFormat::DeepSeekR1, "<｜Assistant｜></think>", Start::Answer),
        (ReasoningFormat::Mistral, "[/INST]", Start::Answer),
        (ReasoningFormat::Harmony, "<|start|>assistant", Start::Answer),
    ];
    for (format, prompt, start) in cases {
        assert_eq!(format.start(prompt), start, "{prompt}");
    }
}
