//! An answer whose text is prescribed, of a model that reasons before it, or may call tools instead.

use serde_json::Value;

use super::lark::Lark;
use super::{
    Forced, ReasoningFormat, SPACED, ToolFormat, analysis, calls, harmony, thoughts, written,
};

/// The grammar of an answer that `expression` describes, or of calls where there is a format of
/// those; after whatever reasoning.
pub fn answer(expression: &str, format: Option<ToolFormat>, forced: &Forced) -> String {
    let mut lark = Lark::new(forced.special);
    let mut start = thoughts(forced, &mut lark);
    let mut answer = lark.rule("answer", expression);
    if forced.reasoning == Some(ReasoningFormat::Harmony) {
        let [channel, message] =
            [harmony::CHANNEL, harmony::MESSAGE].map(|marker| lark.marker(marker));
        answer = format!(r#"{} {channel} "final" {message} {answer}"#, analysis(&mut lark));
    }
    match format {
        None => start.push_str(&answer),
        Some(format) => {
            let calls = calls(format, forced, &mut lark);
            start.push_str(&format!("({calls} | {answer})"));
        }
    }
    lark.finish(&start)
}

/// JSON of a schema, as an expression.
pub fn json(schema: Value) -> String {
    format!("%json {}", written(schema, SPACED))
}
