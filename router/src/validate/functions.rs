//! `functions` and `function_call`, which OpenAI has replaced by `tools` and `tool_choice`: the same
//! functions, of which an answer calls one at most.

use super::tools::{Choice, Chosen, Function, MAX_TOOLS, Tools, choose, distinct};
use crate::api::chat::tools::{self as api, FunctionCallOption};
use crate::api::fields::missing;
use crate::error::ApiError;

const FUNCTIONS: &str = "functions";
const CALL: &str = "function_call";

pub(super) fn parse(
    functions: Vec<api::Function>,
    call: Option<FunctionCallOption>,
) -> Result<Tools, ApiError> {
    if functions.len() > MAX_TOOLS {
        let given = functions.len();
        let message = format!("`{FUNCTIONS}` has {given} functions and may have {MAX_TOOLS}");
        return Err(ApiError::invalid(FUNCTIONS, "array_above_max_length", message));
    }
    let functions = distinct(functions, |i, function: api::Function| {
        let param = format!("{FUNCTIONS}[{i}].name");
        let name = function.name.ok_or_else(|| missing(&param))?;
        let parameters = (format!("{FUNCTIONS}[{i}].parameters"), function.parameters);
        let function = Function::new((&param, name), function.description, parameters)?;
        Ok((param, function))
    })?;
    let chosen = match call {
        None => Chosen::Any(Choice::Auto),
        Some(FunctionCallOption::Mode(mode)) => match mode.as_str() {
            "none" => Chosen::None,
            "auto" => Chosen::Any(Choice::Auto),
            other => {
                let message = format!(
                    "`{CALL}` is {other:?} and must be none, auto or an object with a name"
                );
                return Err(ApiError::invalid(CALL, "invalid_value", message));
            }
        },
        Some(FunctionCallOption::Named(named)) => {
            let param = format!("{CALL}.name");
            let name = named.name.ok_or_else(|| missing(&param))?;
            if !functions.iter().any(|function| function.name == name) {
                let message = format!("`{param}` is {name:?}, which is none of `{FUNCTIONS}`");
                return Err(ApiError::invalid(param, "invalid_value", message));
            }
            Chosen::Named(vec![(param, name)], Choice::Required)
        }
    };
    let (functions, choice) = choose(functions, chosen)?;
    Ok(Tools { functions, choice, parallel: false })
}
