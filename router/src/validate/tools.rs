//! The tools that the model may call, and whether it must.

use serde_json::{Map, Value, json};

use super::format::check_name;
use crate::api::chat::tools::{FunctionName, Tool, ToolChoice, ToolChoiceObject};
use crate::api::fields::missing;
use crate::error::ApiError;

/// Most tools, as OpenAI has it.
pub(super) const MAX_TOOLS: usize = 128;

/// What the model may call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    /// None when it may call nothing.
    pub(crate) functions: Vec<Function>,
    pub(crate) choice: Choice,
    /// Whether one answer may have several calls.
    pub(crate) parallel: bool,
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// A JSON schema of an object.
    pub(crate) parameters: Map<String, Value>,
    /// The parameter that the schema comes from.
    pub(crate) param: String,
}

/// Whether the model must call something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It decides.
    #[default]
    Auto,
    /// It must call one or more of them.
    Required,
}

/// What a client lets the model call.
pub(super) enum Chosen {
    /// Nothing.
    None,
    /// Any of the functions.
    Any(Choice),
    /// These, with the parameters that name them.
    Named(Vec<(String, String)>, Choice),
}

impl Function {
    /// A function whose name, and the schema of whose arguments, these parameters give.
    pub(super) fn new(
        (name_param, name): (&str, String),
        description: Option<String>,
        (param, parameters): (String, Option<Map<String, Value>>),
    ) -> Result<Self, ApiError> {
        check_name(name_param, &name)?;
        let no_arguments = || Map::from_iter([("type".into(), "object".into())]);
        let mut parameters = parameters.unwrap_or_else(no_arguments);
        match parameters.get("type") {
            None => drop(parameters.insert("type".into(), "object".into())),
            Some(Value::String(kind)) if kind == "object" => {}
            Some(_) => {
                let param = format!("{param}.type");
                let message = format!("`{param}` must be \"object\": arguments have names");
                return Err(ApiError::invalid(param, "invalid_value", message));
            }
        }
        Ok(Self { name, description, parameters, param })
    }

    /// As chat templates have it.
    pub(crate) fn as_json(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".into(), self.name.clone().into());
        if let Some(description) = &self.description {
            function.insert("description".into(), description.clone().into());
        }
        function.insert("parameters".into(), self.parameters.clone().into());
        json!({ "type": "function", "function": function })
    }
}

pub(super) fn parse(
    tools: Option<Vec<Tool>>,
    choice: Option<ToolChoice>,
    parallel: Option<bool>,
) -> Result<Tools, ApiError> {
    let functions = distinct(tools.unwrap_or_default(), function)?;
    // A function that is named is called once.
    let is_named = matches!(&choice, Some(ToolChoice::Object(object)) if object.function.is_some());
    let chosen = choice.map_or(Ok(Chosen::Any(Choice::Auto)), chosen)?;
    let (functions, choice) = choose(functions, chosen)?;
    Ok(Tools { functions, choice, parallel: parallel.unwrap_or(true) && !is_named })
}

/// The functions of a request, each with a name of its own. `read` gives one, and the parameter of
/// its name.
pub(super) fn distinct<T>(
    tools: Vec<T>,
    read: impl Fn(usize, T) -> Result<(String, Function), ApiError>,
) -> Result<Vec<Function>, ApiError> {
    if tools.len() > MAX_TOOLS {
        let message = format!("`tools` has {} tools and may have {MAX_TOOLS}", tools.len());
        return Err(ApiError::invalid("tools", "array_above_max_length", message));
    }
    let mut functions: Vec<Function> = Vec::with_capacity(tools.len());
    for (i, tool) in tools.into_iter().enumerate() {
        let (param, function) = read(i, tool)?;
        if functions.iter().any(|other| other.name == function.name) {
            let message = format!("`{param}`: there are two functions of this name");
            return Err(ApiError::invalid(param, "duplicate_parameter", message));
        }
        functions.push(function);
    }
    Ok(functions)
}

fn function(i: usize, tool: Tool) -> Result<(String, Function), ApiError> {
    let path = |field: &str| format!("tools[{i}].{field}");
    check_kind(path("type"), tool.kind.as_deref())?;
    let function = tool.function.ok_or_else(|| missing(&path("function")))?;
    let param = path("function.name");
    let name = function.name.ok_or_else(|| missing(&param))?;
    let parameters = (path("function.parameters"), function.parameters);
    let function = Function::new((&param, name), function.description, parameters)?;
    Ok((param, function))
}

/// Whether a tool is of the one kind that there is.
pub(super) fn check_kind(param: String, kind: Option<&str>) -> Result<(), ApiError> {
    match kind {
        Some("function") => Ok(()),
        None => Err(missing(&param)),
        Some(kind) => {
            let message =
                format!("`{param}` is {kind:?}, and only functions are supported: type `function`");
            Err(ApiError::invalid(param, "unsupported_value", message))
        }
    }
}

fn chosen(choice: ToolChoice) -> Result<Chosen, ApiError> {
    match choice {
        ToolChoice::Object(object) => {
            let (names, choice) = names(object)?;
            Ok(Chosen::Named(names, choice))
        }
        ToolChoice::Mode(mode) => self::mode(&mode),
    }
}

/// What a word of `tool_choice` means.
pub(super) fn mode(mode: &str) -> Result<Chosen, ApiError> {
    match mode {
        "none" => Ok(Chosen::None),
        "auto" => Ok(Chosen::Any(Choice::Auto)),
        "required" => Ok(Chosen::Any(Choice::Required)),
        other => {
            let message = format!(
                "`tool_choice` is {other:?} and must be one of: none, auto, required, or an object"
            );
            Err(ApiError::invalid("tool_choice", "invalid_value", message))
        }
    }
}

/// Whether one of the allowed tools must be called.
pub(super) fn allowed_mode(param: &str, mode: Option<&str>) -> Result<Choice, ApiError> {
    match mode {
        Some("auto") => Ok(Choice::Auto),
        Some("required") => Ok(Choice::Required),
        _ => {
            let message = format!("`{param}` must be one of: auto, required");
            Err(ApiError::invalid(param, "invalid_value", message))
        }
    }
}

/// The functions that may be called, and whether one must be.
pub(super) fn choose(
    functions: Vec<Function>,
    chosen: Chosen,
) -> Result<(Vec<Function>, Choice), ApiError> {
    let needs_tools =
        || ApiError::invalid("tool_choice", "invalid_value", "`tool_choice` needs `tools`");
    let (names, choice) = match chosen {
        Chosen::None => return Ok((Vec::new(), Choice::Auto)),
        Chosen::Any(Choice::Required) | Chosen::Named(..) if functions.is_empty() => {
            return Err(needs_tools());
        }
        Chosen::Any(choice) => return Ok((functions, choice)),
        Chosen::Named(names, choice) => (names, choice),
    };
    let mut chosen = Vec::with_capacity(names.len());
    for (param, name) in names {
        let Some(function) = functions.iter().find(|function| function.name == name) else {
            let message = format!("`{param}` is {name:?}, which is none of `tools`");
            return Err(ApiError::invalid(param, "invalid_value", message));
        };
        chosen.push(function.clone());
    }
    Ok((chosen, choice))
}

/// The names of the chosen functions, with the parameters that they come from.
fn names(object: ToolChoiceObject) -> Result<(Vec<(String, String)>, Choice), ApiError> {
    let name = |param: &str, function: Option<FunctionName>| {
        let param = format!("{param}.function.name");
        let name = function.and_then(|function| function.name);
        name.map(|name| (param.clone(), name)).ok_or_else(|| missing(&param))
    };
    match (object.kind.as_deref(), object.allowed_tools) {
        (Some("function"), _) => {
            Ok((vec![name("tool_choice", object.function)?], Choice::Required))
        }
        (Some("allowed_tools"), Some(allowed)) => {
            let mode = allowed.mode.as_deref();
            let choice = allowed_mode("tool_choice.allowed_tools.mode", mode)?;
            let tools = allowed.tools.unwrap_or_default().into_iter().enumerate();
            let names = tools.map(|(i, tool)| {
                name(&format!("tool_choice.allowed_tools.tools[{i}]"), tool.function)
            });
            let names: Vec<_> = names.collect::<Result<_, _>>()?;
            if names.is_empty() {
                return Err(missing("tool_choice.allowed_tools.tools"));
            }
            Ok((names, choice))
        }
        (Some("allowed_tools"), None) => Err(missing("tool_choice.allowed_tools")),
        (None, _) => Err(missing("tool_choice.type")),
        (Some(kind), _) => {
            let param = "tool_choice.type";
            let message = format!("`{param}` is {kind:?} and must be function or allowed_tools");
            Err(ApiError::invalid(param, "unsupported_value", message))
        }
    }
}
