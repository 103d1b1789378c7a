use super::{Case, ReasoningFormat, Start, ToolFormat};

const fn think(text: &'static str) -> Case {
    Case::new(ToolFormat::Hermes, text).thinking(ReasoningFormat::Think, Start::Answer)
}

const fn begun(text: &'static str) -> Case {
    Case::new(ToolFormat::Hermes, text).thinking(ReasoningFormat::Think, Start::Reasoning)
}

const fn mistral(text: &'static str) -> Case {
    Case::new(ToolFormat::MistralArgs, text).thinking(ReasoningFormat::Mistral, Start::Answer)
}

pub(super) const CASES: &[Case] = &[
    think("  No thoughts, but <think> in the text.").verbatim(),
    think("<think>\nHm, 1 < 2 </thin.\n</think>\n\nYes. ").reasoning("Hm, 1 < 2 </thin.").content("Yes. "),
    think("<think>\n\n</think>\n\nYes.").content("Yes."),
    think("<think></think>\n\nYes.").content("Yes."),
    think("\n<think>a\n\n<think> b</think> </think>c").reasoning("a\n\n<think> b").content("</think>c"),
    think("<think>One</think>\n<think>Two</think>\nThree").reasoning("OneTwo").content("Three"),
    think("<think>Paris?</think>\n\n<tool_call>\n{\"name\": \"ping\", \"arguments\": {}}\n</tool_call>")
        .reasoning("Paris?")
        .calls(&[("ping", "{}")]),
    think("<think>Call <tool_call>{\"name\": \"ping\", \"arguments\": {}}</tool_call>?</think>No.")
        .reasoning("Call <tool_call>{\"name\": \"ping\", \"arguments\": {}}</tool_call>?")
        .content("No."),
    think("<think>cut off </th").reasoning("cut off </th"),
    think("<thi").verbatim(),
    begun("\nHm.\n</think>\n\nYes </think>.").reasoning("Hm.").content("Yes </think>."),
    begun("<think>\nHm.</think>Yes.").reasoning("Hm.").content("Yes."),
    begun("Hm. <think>").reasoning("Hm. <think>"),
    begun("</think>Yes.").content("Yes."),
    Case::new(ToolFormat::DeepSeekV3, "Okay.\n</think>\n\nYes.")
        .thinking(ReasoningFormat::DeepSeekR1, Start::Reasoning)
        .reasoning("Okay.")
        .content("Yes."),
    mistral("[THINK]Hm. [TH[/THINK]Yes [1].").reasoning("Hm. [TH").content("Yes [1]."),
    mistral("[THINK]Hm.[/THINK][TOOL_CALLS]ping[ARGS]{}").reasoning("Hm.").calls(&[("ping", "{}")]),
];
