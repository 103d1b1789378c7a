//! A score request.

use serde::Deserialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::api::fields::{Door, Fields, request_schema};
use crate::error::ApiError;
use crate::prompt::inputs::Input;
use crate::validate::inputs::{self, Bounds};

/// The body of `POST /v1/score`.
pub(crate) struct ScoreRequest {
    pub(crate) model: String,
    /// Whom it is for.
    pub(crate) user: Option<String>,
    text_1: Vec<String>,
    text_2: Vec<String>,
}

/// One text, or a list.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(crate) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl ScoreRequest {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::read(Door::Score, body)?;
        let texts = |name| {
            let texts = Fields::required(name, fields.parse::<Texts>(name)?)?;
            Ok::<_, ApiError>(texts.into_vec())
        };
        Ok(Self {
            model: Fields::required("model", fields.text("model")?)?,
            user: fields.user()?,
            text_1: texts("text_1")?,
            text_2: texts("text_2")?,
        })
    }

    /// The first texts, one or as many as there are second ones, and the second texts.
    pub(crate) fn into_inputs(self, bounds: Bounds) -> Result<(Vec<Input>, Vec<Input>), ApiError> {
        let firsts = inputs::texts("text_1", self.text_1, bounds)?;
        let seconds = inputs::texts("text_2", self.text_2, bounds)?;
        let (num_firsts, num_seconds) = (firsts.len(), seconds.len());
        if num_firsts != 1 && num_firsts != num_seconds {
            let message = format!(
                "`text_1` has {num_firsts} texts and `text_2` has {num_seconds}: `text_1` must be \
                 one text or as many"
            );
            return Err(ApiError::invalid("text_1", "invalid_value", message));
        }
        Ok((firsts, seconds))
    }
}

impl PartialSchema for Texts {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let list = ArrayBuilder::new().items(text());
        Schema::AnyOf(AnyOfBuilder::new().item(text()).item(list).build()).into()
    }
}

impl ToSchema for Texts {}

impl PartialSchema for ScoreRequest {
    fn schema() -> RefOr<Schema> {
        request_schema(Door::Score)
    }
}

impl ToSchema for ScoreRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Texts::name().into(), Texts::schema()));
    }
}
