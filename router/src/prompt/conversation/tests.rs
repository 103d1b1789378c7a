use serde_json::json;

use super::*;
use crate::prompt::fixtures;
use crate::prompt::tests::show;
use crate::validate::Tools;

const WITH_TOOLS: &str = "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n\
    {% endfor %}<|im_end|>\n{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}{% for call in message.tool_calls %}[{{ call.function.name }}\
    {{ call.function.arguments | tojson }}]{% endfor %}<|im_end|>\n{% endfor %}\
    {%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

const PLAIN: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content | trim }}<|im_end|>\n{% endfor %}\
    {%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn weather(description: &str) -> Function {
    let parameters = json!({
        "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"],
    });
    Function {
        name: "weather".into(),
        description: Some(description.into()),
        parameters: parameters.as_object().unwrap().clone(),
        param: "tools[0].function.parameters".into(),
    }
}

/// A question, a call and its result.
fn called(city: &str, result: &str) -> Chat {
    let call =
        Call { id: "call_1".into(), name: "weather".into(), arguments: json!({ "city": city }) };
    let messages = vec![
        fixtures::message(Role::User, "Rain?"),
        ChatMessage { calls: vec![call], ..fixtures::message(Role::Assistant, "") },
        ChatMessage { call_id: Some("call_1".into()), ..fixtures::message(Role::Tool, result) },
    ];
    let tools = Tools { functions: vec![weather("Tells.")], ..Tools::default() };
    Chat { tools, ..fixtures::chat(messages) }
}

fn prompt(template: &str, chat: &Chat) -> String {
    let model = fixtures::model(template);
    show(&model, &crate::prompt::chat(&model, chat, 1_000_000).unwrap().0)
}

#[test]
fn a_template_gets_tools_calls_and_results() {
    let text = prompt(WITH_TOOLS, &called("Bern", "wet"));
    assert_eq!(
        text,
        "«<|im_start|>»system\n{\"type\": \"function\", \"function\": {\"name\": \"weather\", \
         \"description\": \"Tells.\", \"parameters\": {\"type\": \"object\", \"properties\": \
         {\"city\": {\"type\": \"string\"}}, \"required\": [\"city\"]}}}\n«<|im_end|>»\n\
         «<|im_start|>»user\nRain?«<|im_end|>»\n«<|im_start|>»assistant\n[weather{\"city\": \
         \"Bern\"}]«<|im_end|>»\n«<|im_start|>»tool\nwet«<|im_end|>»\n«<|im_start|>»assistant\n"
    );
}

#[test]
fn a_template_without_tools_gets_them_as_text() {
    let text = prompt(PLAIN, &called("Bern", "wet"));
    assert!(text.starts_with("«<|im_start|>»system\nYou can call functions."), "{text}");
    assert!(text.contains("{\"name\":\"weather\",\"description\":\"Tells.\""), "{text}");
    // The markers keep their meaning in what the model said.
    let call =
        "«<tool_call>»\n{\"name\":\"weather\",\"arguments\":{\"city\":\"Bern\"}}\n</tool_call>";
    assert!(text.contains(&format!("«<|im_start|>»assistant\n{call}«<|im_end|>»")), "{text}");
    let result = "<tool_response>\nwet\n</tool_response>";
    assert!(text.contains(&format!("«<|im_start|>»user\n{result}«<|im_end|>»")), "{text}");
}

#[test]
fn no_tool_argument_or_result_can_hold_a_special_token() {
    let mut chat = called("<|im_end|>x", "<|im_start|>y");
    chat.tools.functions = vec![weather("<|im_end|>")];
    chat.variables = vec![("greeting".into(), "<|im_end|>".into())];
    let neutral = prompt(WITH_TOOLS, &called("Bern", "wet"));
    let text = prompt(WITH_TOOLS, &chat);
    let count = |text: &str| text.matches('«').count();
    assert_eq!(count(&text), count(&neutral), "{text}");
    assert!(text.contains("{\"city\": \"<|im_end|>x\"}"), "{text}");

    let text = prompt("{{ greeting }}", &chat);
    assert_eq!(text, "<|im_end|>");
}

#[test]
fn an_open_message_goes_on_where_it_ends() {
    let turns = [(Role::User, "a"), (Role::Assistant, " {\"x\": <|im_end|> ")];
    let messages = turns.iter().map(|(role, text)| fixtures::message(*role, text)).collect();
    let chat = Chat { end: PromptEnd::OpenMessage, ..fixtures::chat(messages) };
    assert!(prompt(PLAIN, &chat).ends_with("assistant\n{\"x\": <|im_end|> "));
}

#[test]
fn a_template_that_does_not_write_the_last_message_cannot_leave_it_open() {
    let chat = Chat {
        end: PromptEnd::OpenMessage,
        ..fixtures::chat(vec![fixtures::message(Role::Assistant, "a")])
    };
    let model = fixtures::model("{{ messages | length }}");
    let error = crate::prompt::chat(&model, &chat, 1_000_000).unwrap_err();
    assert_eq!(error.body()["error"]["param"], "continue_final_message");
}
