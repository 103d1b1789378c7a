//! What a stream is made of: events, whose data are JSON.

use utoipa::Modify;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{OpenApi, RefOr};

use super::errors::Body;
use super::operation;
use crate::server::route;

/// Endpoints name what an event's data are; this makes it a schema of the event.
pub(super) struct Events;

impl Modify for Events {
    fn modify(&self, document: &mut OpenApi) {
        for route in route::routes() {
            let Some(operation) = operation(document, &route) else { continue };
            for response in operation.responses.responses.values_mut() {
                let RefOr::T(response) = response else { continue };
                if let Some(RefOr::T(content)) = response.content.get_mut("text/event-stream") {
                    let data = content.schema.take();
                    content.schema = data.map(|data| event(data, Body::of(route.path)));
                }
            }
        }
    }
}

fn event(data: RefOr<Schema>, errors: Body) -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let json = AnyOfBuilder::new().item(data).item(errors.schema());
    let json = text()
        .content_media_type("application/json")
        .content_schema(Some(Schema::AnyOf(json.build())))
        .description(Some("What has come; an error is the last that comes"));
    let done = text().enum_values(Some(["[DONE]"])).description(Some("OpenAI's end"));
    let name = text().description(Some("The type of the data, where the data has one"));
    let event = ObjectBuilder::new()
        .property("event", name)
        .property("data", AnyOfBuilder::new().item(json).item(done))
        .required("data");
    Schema::Object(event.build()).into()
}
