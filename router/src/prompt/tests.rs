use std::collections::HashMap;

use proptest::prelude::*;

use super::added::AddedTokens;
use super::fixtures::{self, ADDED, info};
use super::*;
use crate::validate::{ChatMessage, Role};

const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != \
    'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}\
    {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}\
    {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ \
    message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}\
    {% set content = '<|begin_of_text|>' + content %}{% endif %}{{ content }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

const MISTRAL: &str = "{{ bos_token }}{% for message in messages %}\
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation \
    roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
    {% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
    {% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}\
    {% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}\
    {% endfor %}";

/// The parts of Qwen3's template that work on content: they split, strip and compare it.
const QWEN3: &str = "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == \"assistant\" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in message.content %}
                {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
                {%- set reasoning_content = message.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {{- 'never' }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}";

const TEMPLATES: [&str; 4] = [SMOLLM2, LLAMA3, MISTRAL, QWEN3];

fn encode_chat(model: &Model, turns: &[(Role, &str)]) -> Result<Vec<u32>, ApiError> {
    let messages = turns.iter().map(|(role, content)| fixtures::message(*role, content)).collect();
    chat(model, &fixtures::chat(messages), 1_000_000).map(|(tokens, _)| tokens)
}

/// The tokens as text, with the added ones in angle quotes.
pub(crate) fn show(model: &Model, tokens: &[u32]) -> String {
    let added = model.tokenizer.get_added_tokens_decoder();
    let show = |token: &u32| match added.get(token) {
        Some(added) => format!("«{}»", added.content).into_bytes(),
        None => model.tokens.bytes(*token).to_vec(),
    };
    String::from_utf8(tokens.iter().flat_map(show).collect()).unwrap()
}

fn rendered(template: &str, turns: &[(Role, &str)]) -> String {
    let model = fixtures::model(template);
    show(&model, &encode_chat(&model, turns).unwrap())
}

fn param(error: &ApiError) -> (Option<&str>, &'static str) {
    match error {
        ApiError::Invalid { param, code, .. } => (param.as_deref(), code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn templates_of_four_families_are_rendered() {
    use Role::{Assistant, System, User};
    assert_eq!(
        rendered(SMOLLM2, &[(User, "hello")]),
        "«<|im_start|>»system\nYou are a helpful AI assistant«<|im_end|>»\n«<|im_start|>»user\n\
         hello«<|im_end|>»\n«<|im_start|>»assistant\n"
    );
    assert_eq!(
        rendered(LLAMA3, &[(System, " be brief "), (User, "hello\n")]),
        "«<|begin_of_text|>»«<|start_header_id|>»system«<|end_header_id|>»\n\nbe brief«<|eot_id|>»\
         «<|start_header_id|>»user«<|end_header_id|>»\n\nhello«<|eot_id|>»«<|start_header_id|>»\
         assistant«<|end_header_id|>»\n\n"
    );
    assert_eq!(
        rendered(MISTRAL, &[(User, "a"), (Assistant, "b"), (User, "c")]),
        "«<|im_start|>»«[INST]» a «[/INST]»b«<|im_end|>»«[INST]» c «[/INST]»"
    );
    assert_eq!(
        rendered(QWEN3, &[(User, "a"), (Assistant, "<think>\nhm\n</think>\n\nb"), (User, "c")]),
        "«<|im_start|>»user\na«<|im_end|>»\n«<|im_start|>»assistant\nb«<|im_end|>»\n«<|im_start|>»\
         user\nc«<|im_end|>»\n«<|im_start|>»assistant\n"
    );
}

#[test]
fn an_added_token_in_a_message_is_text() {
    for template in TEMPLATES {
        let model = fixtures::model(template);
        for (token, _) in ADDED.iter().filter(|(token, _)| !token.trim().is_empty()) {
            for content in
                [(*token).to_owned(), format!("  a{token}{token}b "), format!("<|im{token}")]
            {
                let neutral = encode_chat(&model, &[(Role::User, "x")]).unwrap();
                let tokens = encode_chat(&model, &[(Role::User, &content)]).unwrap();

                let num_added = |tokens: &[u32]| tokens.iter().filter(|id| **id >= 262).count();
                assert_eq!(num_added(&tokens), num_added(&neutral), "{}", show(&model, &tokens));
                let text: Vec<u8> =
                    tokens.iter().flat_map(|id| model.tokens.bytes(*id).to_vec()).collect();
                let text = String::from_utf8(text).unwrap();
                assert!(text.contains(content.trim()), "{text:?} lacks {content:?}");
            }
        }
    }
}

#[test]
fn an_added_token_in_a_name_is_text() {
    let model = fixtures::model("{{ messages[0].name }}");
    let name = Some("<|im_end|>".into());
    let message = ChatMessage { name, ..fixtures::message(Role::User, "") };
    let (tokens, _) = chat(&model, &fixtures::chat(vec![message]), 1_000_000).unwrap();
    assert_eq!(show(&model, &tokens), "<|im_end|>");
}

#[test]
fn markup_keeps_its_meaning_in_what_the_model_said() {
    let turns = [(Role::User, "a"), (Role::Assistant, "<think>x</think>y<|im_end|>")];
    let text = rendered(SMOLLM2, &turns);
    assert!(text.contains("«<think>»x«</think>»y<|im_end|>«<|im_end|>»"), "{text}");

    let text = rendered(SMOLLM2, &[(Role::User, "<think>x</think>")]);
    assert!(text.contains("user\n<think>x</think>«<|im_end|>»"), "{text}");
}

#[test]
fn white_space_that_is_an_added_token_stays_one() {
    let text = rendered(SMOLLM2, &[(Role::User, "a    b<|im_end|>")]);
    assert!(text.contains("a«    »b<|im_end|>«<|im_end|>»"), "{text}");
}

#[test]
fn the_mark_is_a_character_that_no_message_has() {
    let text = "\u{F0000}<|im_end|>\u{F0001}";
    assert!(rendered(SMOLLM2, &[(Role::User, text)]).contains(text));
    assert_eq!(
        Mark::absent_from(["\u{F0000}\u{F0002}", "\u{F0001}"]),
        Mark::absent_from(["\u{F0000}\u{F0001}", "\u{F0002}"])
    );
    let all: String = ('\u{F0000}'..='\u{10FFFF}').collect();
    assert_eq!(Mark::absent_from([all.as_str()]), None);
}

#[test]
fn a_beginning_of_sequence_token_is_there_once() {
    let with_bos = |template: &str, add_bos_token| {
        let mut model = fixtures::model(template);
        model.info.bos_token_id = model.tokenizer.token_to_id("<|begin_of_text|>");
        model.info.add_bos_token = add_bos_token;
        model
    };
    for (template, add, expected) in [
        ("<|begin_of_text|>{{ messages[0].content }}", true, "«<|begin_of_text|>»a"),
        ("<|begin_of_text|>{{ messages[0].content }}", false, "«<|begin_of_text|>»a"),
        ("{{ messages[0].content }}", true, "«<|begin_of_text|>»a"),
        ("{{ messages[0].content }}", false, "a"),
    ] {
        let model = with_bos(template, add);
        let tokens = encode_chat(&model, &[(Role::User, "a")]).unwrap();
        assert_eq!(show(&model, &tokens), expected);
    }
    let model = with_bos("", true);
    let text = "<|begin_of_text|>a";
    let tokens = raw(&model, text, || "prompt".into()).unwrap();
    assert_eq!(show(&model, &tokens), "«<|begin_of_text|>»<|begin_of_text|>a");
}

#[test]
fn a_template_that_says_no_is_the_clients_error() {
    let model = fixtures::model(MISTRAL);
    let error = encode_chat(&model, &[(Role::Assistant, "a")]).unwrap_err();
    assert_eq!(param(&error), (Some("messages"), "invalid_value"));
    assert!(
        error
            .to_string()
            .ends_with("Conversation roles must alternate user/assistant/user/assistant/...")
    );
}

#[test]
fn a_template_is_stopped_when_it_runs_or_writes_too_long() {
    for (template, code) in [
        (
            "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
            "invalid_value",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "invalid_value"),
        ("{{ messages[0].content * 100000000 }}", "invalid_value"),
        ("{% for i in range(10000) %}{{ 'a' * 100 }}{% endfor %}", "context_length_exceeded"),
        ("{{ messages[0].nothing.at.all }}", "invalid_value"),
        ("{{ nothing() }}", "invalid_value"),
        ("{{ messages[0].__class__.__mro__ }}", "invalid_value"),
        ("{% include '/etc/passwd' %}", "invalid_value"),
    ] {
        let started = std::time::Instant::now();
        let error = encode_chat(&fixtures::model(template), &[(Role::User, "a")]).unwrap_err();
        assert_eq!(param(&error), (Some("messages"), code), "{template}: {error}");
        assert!(started.elapsed().as_secs() < 5, "{template}");
    }
}

#[test]
fn a_template_that_does_not_compile_leaves_the_model_usable() {
    let model = fixtures::model("{% if %}");
    let error = encode_chat(&model, &[(Role::User, "a")]).unwrap_err();
    assert!(matches!(error, ApiError::BrokenTemplate { .. }));
    assert!(raw(&model, "hello", || "prompt".into()).is_ok());

    let error = encode_chat(&fixtures::model(""), &[(Role::User, "a")]).unwrap_err();
    assert_eq!(param(&error), (Some("messages"), "unsupported_value"));
}

#[test]
fn templates_get_what_transformers_gives_them() {
    for (template, expected) in [
        ("{{ {'a': [1, '<&\\'>\"é\\\\u003c']} | tojson }}", r#"{"a": [1, "<&'>\"é\\u003c"]}"#),
        ("{{ [1] | tojson(indent=2, ensure_ascii=False) }}", "[\n  1\n]"),
        ("{{ tools is none }} {{ documents is none }}", "True True"),
        ("{{ bos_token }}", "«<|im_start|>»"),
        ("{{ messages[0].get('tool_calls') is none }}", "True"),
        ("{{ '<' }}", "<"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{%- generation -%} a {%- endgeneration %} b", "a b"),
        (
            "{% for i in [1, 2] %}\n    {% if i == 1 %}\nx\n    {% continue %}{% endif %}\n  y\n{% endfor %}",
            "x\n  y\n",
        ),
        (
            "{{ ' a '.strip() }}{{ 'a-b'.split('-')[1] }}{{ 'ab'.upper().startswith('A') }}",
            "abTrue",
        ),
        (
            "{% set ns = namespace(x=1) %}{% for m in messages[:] %}{% set ns.x = ns.x + 1 %}{% endfor %}{{ ns.x }}",
            "2",
        ),
    ] {
        assert_eq!(rendered(template, &[(Role::User, "hi")]), expected, "{template}");
    }
}

#[test]
fn a_text_longer_than_any_prompt_is_not_tokenised() {
    let model = fixtures::model(SMOLLM2);
    let text = "a".repeat(max_bytes(&model) + 1);
    let error = raw(&model, &text, || "prompt[1]".into()).unwrap_err();
    assert_eq!(param(&error), (Some("prompt[1]"), "context_length_exceeded"));
    let error = encode_chat(&model, &[(Role::User, &text)]).unwrap_err();
    assert_eq!(param(&error), (Some("messages"), "context_length_exceeded"));
}

#[test]
fn an_empty_prompt_needs_a_beginning_of_sequence_token() {
    let mut model = fixtures::model("");
    let error = raw(&model, "", || "prompt".into()).unwrap_err();
    assert_eq!(param(&error), (Some("prompt"), "empty_string"));
    model.info.add_bos_token = true;
    model.info.bos_token_id = Some(262);
    assert_eq!(raw(&model, "", || "prompt".into()).unwrap(), [262]);
}

#[test]
fn sentencepiece_text_is_broken_up_too() {
    let json = fixtures::sentencepiece().to_string(false).unwrap();
    let info = sconce_proto::worker::ModelInfo {
        chat_template: "<s>[INST] {{ messages[0].content | trim }} [/INST]".into(),
        special_tokens: HashMap::new(),
        ..info()
    };
    let model = Model::load(info, json.as_bytes()).unwrap();
    let tokens = encode_chat(&model, &[(Role::User, " a</s>b ")]).unwrap();
    let plain = "▁a".to_owned() + "</s>b▁";
    let tokens: Vec<_> =
        tokens.iter().map(|id| model.tokenizer.id_to_token(*id).unwrap()).collect();
    assert_eq!(tokens[0..2], ["<s>", "[INST]"]);
    assert_eq!(tokens.last().unwrap(), "[/INST]");
    // `<`, `/`, `s` and `>` are bytes in this vocabulary.
    let text = "▁▁a<0x3C><0x2F><0x73><0x3E>b▁";
    assert_eq!(tokens[2..tokens.len() - 1].concat(), text, "{plain}");
}

proptest! {
    /// With a mark that is never found, our steps are the library's.
    #[test]
    fn marked_text_is_encoded_as_the_library_encodes_it(
        text in "([ a-e<|>é]|<\\|im_end\\|>|<think>|    |<s>){0,24}",
    ) {
        let mark = Mark::absent_from([]);
        for tokenizer in [fixtures::byte_level(), fixtures::sentencepiece()] {
            let added = AddedTokens::new(&tokenizer).unwrap();
            let ours = added.encode(&tokenizer, &text, mark).unwrap();
            let theirs = tokenizer.encode_fast(&*text, false).unwrap().get_ids().to_vec();
            prop_assert_eq!(ours, theirs);
        }
    }

    /// Text that is broken up has no added token and loses nothing.
    #[test]
    fn broken_up_text_is_the_same_text(
        text in "([a-c<|>]|<\\|im_end\\|>|<\\|im|<think>|\\[INST\\]){0,16}",
    ) {
        let tokenizer = fixtures::byte_level();
        let added = AddedTokens::new(&tokenizer).unwrap();
        let mark = Mark::absent_from([]).unwrap();
        let broken = added.break_up(&text, Trust::Nothing, mark);
        let tokens = added.encode(&tokenizer, &broken, Some(mark)).unwrap();
        prop_assert!(tokens.iter().all(|id| *id < 262));
        prop_assert_eq!(tokenizer.decode(&tokens, false).unwrap(), text);
    }
}

/// A client's text never is one of the tokens that part a text.
#[test]
fn what_comes_before_and_after_is_parted_by_our_tokens_alone() {
    let names = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"];
    let mut tokenizer = fixtures::byte_level();
    tokenizer.add_tokens(names.map(|name| tokenizers::AddedToken::from(name, true))).unwrap();
    let mut info = fixtures::info();
    info.vocab_size = 400;
    let model = Model::load(info, tokenizer.to_string(false).unwrap().as_bytes()).unwrap();
    let [prefix, suffix, middle] = names.map(|name| model.tokenizer.token_to_id(name).unwrap());

    let before = begun(&model, "a<fim_suffix>", || "prompt".into()).unwrap();
    let (prompts, _) = infill(&model, "<fim_middle>b", &[before.clone(), vec![]]).unwrap();

    let num_of = |token: u32| prompts[0].iter().filter(|other| **other == token).count();
    assert_eq!([prefix, suffix, middle].map(num_of), [1, 1, 1]);
    assert_eq!(prompts[0][..=before.len()], [&[prefix][..], &before].concat());
    assert_eq!(prompts[1][..2], [prefix, suffix]);
    assert_eq!(prompts[0].last(), Some(&middle));
    let text = model.tokenizer.decode(&prompts[0], true).unwrap();
    assert_eq!(text, "a<fim_suffix><fim_middle>b");
}
