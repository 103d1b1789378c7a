//! The table as a schema of the OpenAPI document.

use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};

use super::{Door, Field, Kind, Treatment, all};

/// The schema of a request to `door`. Fields that are refused are left out.
pub(crate) fn request_schema(door: Door) -> RefOr<Schema> {
    let known = all().filter(|field| {
        field.doors.contains(&door) && !matches!(field.treatment, Treatment::Refused(_))
    });
    let object = known.fold(ObjectBuilder::new(), |object, field| {
        let object = object.property(field.name, property(field));
        if field.note.starts_with("Required.") { object.required(field.name) } else { object }
    });
    Schema::Object(object.build()).into()
}

fn property(field: &Field) -> RefOr<Schema> {
    let of = |kind| ObjectBuilder::new().schema_type(kind);
    let object = match field.kind {
        Kind::Boolean => of(Type::Boolean),
        Kind::Integer { min, max } => {
            of(Type::Integer).minimum(Some(min as f64)).maximum(Some(max as f64))
        }
        Kind::Number { min, max } => of(Type::Number).minimum(Some(min)).maximum(Some(max)),
        Kind::Text { max } => of(Type::String).max_length(Some(max)),
        Kind::OneOf(words) => of(Type::String).enum_values(Some(words.iter().copied())),
        Kind::Metadata => of(Type::Object),
        Kind::Own(Some(
            schema @ ("Message" | "Tool" | "Function" | "MessageParam" | "ToolParam"),
        )) => {
            let messages = ArrayBuilder::new().items(Ref::from_schema_name(schema));
            return Schema::Array(messages.description(Some(field.note)).build()).into();
        }
        Kind::Own(Some(schema)) => return Ref::from_schema_name(schema).into(),
        Kind::Own(None) => ObjectBuilder::new(),
    };
    let note = if field.treatment == Treatment::Ignored { "Accepted and ignored. " } else { "" };
    Schema::Object(object.description(Some(format!("{note}{}", field.note).trim())).build()).into()
}
