//! `/v1/responses`: OpenAI's Responses API.

mod background;
pub mod event;
pub mod item;
pub(crate) mod output;
pub mod reply;
pub(crate) mod request;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sconce_proto::worker::Task;

use super::models::Asked;
use super::query::Query;
use super::reply::ErrorBody;
use crate::app::{App, Principal};
use crate::docs::WorkerErrors;
use crate::error::ApiError;
use crate::generation::TextStream;
use crate::model::Model;
use crate::prompt::Encoded;
use crate::responses::Stored;
use crate::stream::{self, ResponseEvents, Save};
use crate::validate::responses::{Checked, input, user};
use crate::validate::{self, Mode};
use crate::{api, prompt, reading};
use background::Made;
use item::{Item, new_id};
use output::Output;
use reply::{DeletedResponse, InputTokens, ItemList, ResponseObject};
use request::{Input, InputTokensRequest, ResponsesRequest};

/// Items of one list, unless the client says how many.
const DEFAULT_ITEMS: u64 = 20;
/// Most items of one list.
const MAX_ITEMS: u64 = 100;

/// Answers items, or a text.
///
/// With `stream`, the answer is `text/event-stream`: events as the response grows, each with its
/// type and number.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "Responses",
    security(("api_key" = [])),
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response", content(
            (ResponseObject = "application/json"),
            (event::ResponseEvent = "text/event-stream"),
        )),
        WorkerErrors,
    ),
)]
pub async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Response, ApiError> {
    let mut request = ResponsesRequest::read(&body)?;
    drop(body);
    let is_stored = is_stored(&app, &request)?;
    let asked = Asked::of(&request.options);
    let target = api::models::find_for((&app, &principal), asked, Task::Generate).await?;
    let model = &target.model;
    request.store = Some(is_stored);
    // A response says what it was sampled with.
    if let Some(defaults) = &model.info.sampling_defaults {
        request.options.sampling.fill(defaults);
    }
    let response = ResponseObject::begin(new_id("resp"), &target.name, &mut request);
    let (mut encoded, input) = encode(&app, &principal, (model, request)).await?;
    let reply = encoded.request.reply;
    let reading = reading::prepare(model, &mut encoded)?;
    let start = (&app, &principal);
    let stream = TextStream::start(start, &target, encoded, reading.as_ref())?;

    let output = Output::new(reply.logprobs.map(|_| Arc::clone(model)));
    if response.background {
        let made = Made { response, output, input, stream };
        let answer = background::start(&app, &principal, made, reply.mode).await?;
        return Ok(target.label(answer));
    }
    let save = is_stored.then(|| save(&app, &principal, input));
    let answer = match reply.mode {
        Mode::Stream(_) => {
            let events = ResponseEvents::new(response, output, save);
            stream::respond(stream, events, &app.config.limits).await?
        }
        Mode::Whole => whole(stream, (response, output), save).await?,
    };
    Ok(target.label(answer))
}

/// Waits for the whole response: the same steps, collected.
async fn whole(
    mut stream: TextStream,
    (mut response, mut output): (ResponseObject, Output),
    save: Option<Save>,
) -> Result<Response, ApiError> {
    let mut finish = None;
    while let Some(delta) = stream.next().await {
        let delta = delta?;
        output.take(&delta, &mut |_, _, _| {});
        finish = delta.finish.or(finish);
    }
    let finish = finish.ok_or(ApiError::Internal)?;
    response.finish(finish, output.into_items(), stream.usage());
    if let Some(save) = save {
        save(response.clone()).await?;
    }
    Ok(Json(response).into_response())
}

/// Counts the tokens of a response's prompt.
#[utoipa::path(
    post,
    path = "/v1/responses/input_tokens",
    tag = "Responses",
    security(("api_key" = [])),
    request_body = InputTokensRequest,
    responses(
        (status = 200, description = "How many there are", body = InputTokens),
    ),
)]
pub async fn input_tokens(
    State(app): State<App>,
    principal: Principal,
    body: Bytes,
) -> Result<Json<InputTokens>, ApiError> {
    let request = ResponsesRequest::read_to_count(&body)?;
    drop(body);
    let asked = Asked::of(&request.options);
    let target = api::models::find_for((&app, &principal), asked, Task::Generate).await?;
    let model = &target.model;
    let (encoded, _) = encode(&app, &principal, (model, request)).await?;
    let input_tokens = encoded.prompts.iter().map(|prompt| prompt.len() as u64).sum();
    Ok(Json(InputTokens { object: "response.input_tokens".into(), input_tokens }))
}

/// Tells a stored response, or follows one that is made in the background.
///
/// With `stream`, the answer is `text/event-stream`: the events after number `starting_after`, then
/// what comes. Events are kept for a while only.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    tag = "Responses",
    security(("api_key" = [])),
    params(
        ("id" = String, Path, description = "The response's id"),
        ("stream" = Option<bool>, Query, description = "Its events instead of it. Default false"),
        ("starting_after" = Option<u64>, Query, description = "Only events after this number"),
    ),
    responses(
        (status = 200, description = "The response", content(
            (ResponseObject = "application/json"),
            (event::ResponseEvent = "text/event-stream"),
        )),
        (status = 404, description = "There is none, or it is another key's", body = ErrorBody),
        (status = 410, description = "Some of the events are not kept any more", body = ErrorBody),
    ),
)]
pub async fn retrieve(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    let after = query.count("starting_after", (0, u64::MAX - 1))?;
    let stored = background::load(&app, &principal, &id).await?;
    if query.boolean("stream")? != Some(true) {
        if after.is_some() {
            let message = "`starting_after` needs `stream` to be true";
            return Err(ApiError::invalid("starting_after", "invalid_value", message));
        }
        return Ok(Json(stored.response).into_response());
    }
    if !stored.response.background {
        let message = "`stream`: only a response that is made in the background can be followed";
        return Err(ApiError::invalid("stream", "unsupported_value", message));
    }
    // Events are numbered from 0, and counted from 1.
    let num_seen = after.map_or(0, |last| last + 1);
    background::follow(&app, &principal, &id, num_seen).await
}

/// Cancels a response that is made in the background. One that has ended stays as it is.
#[utoipa::path(
    post,
    path = "/v1/responses/{id}/cancel",
    tag = "Responses",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The response's id")),
    responses(
        (status = 200, description = "The response", body = ResponseObject),
        (status = 400, description = "It is not made in the background", body = ErrorBody),
        (status = 404, description = "There is none, or it is another key's", body = ErrorBody),
    ),
)]
pub async fn cancel(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<ResponseObject>, ApiError> {
    background::cancel(&app, &principal, &id).await.map(Json)
}

/// Deletes a stored response. Responses that continue it can't be continued any more.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    tag = "Responses",
    security(("api_key" = [])),
    params(("id" = String, Path, description = "The response's id")),
    responses(
        (status = 200, description = "It is deleted", body = DeletedResponse),
        (status = 404, description = "There is none, or it is another key's", body = ErrorBody),
    ),
)]
pub async fn delete(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<DeletedResponse>, ApiError> {
    app.responses.delete(&principal.key_id, &id).await?;
    app.replays.cancel(&principal.key_id, &id, &ApiError::Cancelled);
    Ok(Json(DeletedResponse { id, object: "response".into(), deleted: true }))
}

/// Lists what went into a stored response, the conversation that it continues included.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    tag = "Responses",
    security(("api_key" = [])),
    params(
        ("id" = String, Path, description = "The response's id"),
        ("limit" = Option<usize>, Query, description = "At most so many, 1 to 100. Default 20"),
        ("order" = Option<String>, Query, description = "`asc` or `desc`, the default"),
        ("after" = Option<String>, Query, description = "Only items after this one"),
    ),
    responses(
        (status = 200, description = "The items", body = ItemList),
        (status = 404, description = "There is none, or it is another key's", body = ErrorBody),
    ),
)]
pub async fn input_items(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<String>,
    query: Query,
) -> Result<Json<ItemList>, ApiError> {
    let limit = query.count("limit", (1, MAX_ITEMS))?.unwrap_or(DEFAULT_ITEMS) as usize;
    let order = query.one_of("order", &["asc", "desc"])?;
    let owner = &principal.key_id;
    let Stored { response, input } = app.responses.load(owner, &id).await?;
    let mut items = match &response.previous_response_id {
        Some(previous) => app.responses.conversation(owner, previous).await?,
        None => Vec::new(),
    };
    items.extend(input);
    if order != Some("asc") {
        items.reverse();
    }
    if let Some(after) = query.text("after") {
        let at = items.iter().position(|item| item.id() == after);
        let at = at.ok_or_else(|| ApiError::not_found("item", after))?;
        items.drain(..=at);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id = |item: Option<&Item>| item.map(|item| item.id().to_owned());
    Ok(Json(ItemList {
        object: "list".into(),
        first_id: id(items.first()),
        last_id: id(items.last()),
        data: items,
        has_more,
    }))
}

/// Whether a response will be stored.
fn is_stored(app: &App, request: &ResponsesRequest) -> Result<bool, ApiError> {
    if request.background && (request.store == Some(false) || !app.responses.are_kept()) {
        let message = "`background` needs `store`: nothing else could be asked for";
        return Err(ApiError::invalid("background", "invalid_value", message));
    }
    match request.store {
        Some(true) if !app.responses.are_kept() => {
            let message = "`store`: this server stores no responses";
            Err(ApiError::invalid("store", "unsupported_value", message))
        }
        store => Ok(store.unwrap_or(true) && app.responses.are_kept()),
    }
}

/// The prompt of a request, and the items of its own that went into it.
async fn encode(
    app: &App,
    principal: &Principal,
    (model, mut request): (&Arc<Model>, ResponsesRequest),
) -> Result<(Encoded, Vec<Item>), ApiError> {
    let limits = &app.config.limits;
    let owner = &principal.key_id;
    let given = match std::mem::replace(&mut request.input, Input::Items(Vec::new())) {
        Input::Text(text) => vec![Checked::Item(user(text))],
        Input::Items(items) => input(items, limits)?,
    };
    let mut items = match &request.previous_response_id {
        Some(previous) => app.responses.conversation(owner, previous).await?,
        None => Vec::new(),
    };
    let num_before = items.len();
    for given in given {
        items.push(match given {
            Checked::Item(item) => item,
            Checked::Reference { path, id } => {
                let item = app.responses.item(owner, &id).await?;
                item.ok_or_else(|| {
                    let message = format!("`{path}`: no stored item has the id `{id}`");
                    ApiError::invalid(path, "item_not_found", message)
                })?
            }
        });
    }
    let request = validate::response(&mut request, &items, (&model.info, limits))?;
    let encoded = prompt::encode(model, request, limits.template_fuel).await?;
    Ok((encoded, items.split_off(num_before)))
}

fn save(app: &App, principal: &Principal, input: Vec<Item>) -> Save {
    let (responses, owner) = (app.responses.clone(), Arc::clone(&principal.key_id));
    Box::new(move |response| {
        Box::pin(async move { responses.save(&owner, &response, &input).await })
    })
}
