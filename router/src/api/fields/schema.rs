//! The table as a schema of the OpenAPI document.

use serde_json::Value;
use utoipa::openapi::schema::{
    AllOfBuilder, AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};

use super::{Door, Field, Kind, Treatment, all};

/// The schema of a request to `door`. Fields that are refused are left out.
pub(crate) fn request_schema(door: Door) -> RefOr<Schema> {
    let known = all().filter(|field| {
        field.doors.contains(&door) && !matches!(field.treatment, Treatment::Refused(_))
    });
    let object = known.fold(ObjectBuilder::new(), |object, field| {
        let object = object.property(field.name, property(field));
        if is_required(field) { object.required(field.name) } else { object }
    });
    Schema::Object(object.build()).into()
}

fn property(field: &Field) -> RefOr<Schema> {
    let note = if field.treatment == Treatment::Ignored { "Accepted and ignored. " } else { "" };
    let note = Some(format!("{note}{}", field.note).trim().to_owned());
    let of = |kind| match is_required(field) {
        true => ObjectBuilder::new().schema_type(kind),
        false => ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null])),
    };
    let object = match field.kind {
        Kind::Boolean => of(Type::Boolean),
        Kind::Integer { min, max } => {
            of(Type::Integer).minimum(Some(min as f64)).maximum(Some(max as f64))
        }
        Kind::Number { min, max } => of(Type::Number).minimum(Some(min)).maximum(Some(max)),
        Kind::Text { max } => of(Type::String).max_length(Some(max)),
        Kind::OneOf(words) => {
            let words = words.iter().copied().map(Value::from);
            of(Type::String).enum_values(Some(words.chain([Value::Null])))
        }
        Kind::Metadata => of(Type::Object),
        Kind::Own(Some(name)) => {
            let schema = named(name);
            return match is_required(field) {
                true => AllOfBuilder::new().item(schema).description(note).into(),
                false => {
                    let null = ObjectBuilder::new().schema_type(Type::Null);
                    AnyOfBuilder::new().item(schema).item(null).description(note).into()
                }
            };
        }
        Kind::Own(None) => ObjectBuilder::new().schema_type(SchemaType::AnyValue),
    };
    object.description(note).into()
}

fn named(name: &str) -> RefOr<Schema> {
    let reference = Ref::from_schema_name(name);
    match name {
        "Message" | "Tool" | "Function" | "MessageParam" | "ToolParam" | "FunctionTool" => {
            Schema::Array(ArrayBuilder::new().items(reference).build()).into()
        }
        _ => reference.into(),
    }
}

fn is_required(field: &Field) -> bool {
    field.note.starts_with("Required.")
}
