//! The list of models as Anthropic's API has it: in pages, each between two models' names.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::prompt::strftime::rfc3339;
use crate::routing::Listed;
use crate::validate::context;

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 1000;

/// One page of the models that are served.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelPage {
    /// The models, by name.
    pub data: Vec<ModelInfo>,
    /// Whether there are more in the direction of the cursor.
    pub has_more: bool,
    /// The cursor to the page before.
    pub first_id: Option<String>,
    /// The cursor to the page after.
    pub last_id: Option<String>,
}

/// A model that is served.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelInfo {
    /// The name that requests give.
    pub id: String,
    /// `model`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same as `id`.
    pub display_name: String,
    /// When it was made available (RFC 3339).
    pub created_at: String,
    /// `active`.
    pub lifecycle: String,
    /// Most tokens of prompt and completion together; `null` until the model was loaded once.
    pub max_input_tokens: Option<u32>,
    /// The same.
    pub max_tokens: Option<u32>,
}

impl ModelInfo {
    pub(super) fn new(listed: &Listed) -> Self {
        let info = listed.model.as_ref().map(|model| &model.info);
        let context = info.map(context);
        let created = info.map_or(0, |info| info.created);
        Self {
            id: listed.name.clone(),
            kind: "model".into(),
            display_name: listed.name.clone(),
            created_at: rfc3339(created.try_into().unwrap_or_default()),
            lifecycle: "active".into(),
            max_input_tokens: context,
            max_tokens: context,
        }
    }
}

/// Which page a client wants.
#[derive(Debug)]
pub(super) struct PageQuery {
    limit: usize,
    cursor: Cursor,
    /// Whether it wants models that can be used, as all of ours can.
    wants_active: bool,
}

/// Where a page begins or ends: at a name, which needs not be that of a model any more.
#[derive(Debug)]
enum Cursor {
    Start,
    After(String),
    Before(String),
}

impl PageQuery {
    /// Reads the parameters of a URL. Unknown ones are ignored.
    pub(super) fn read(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let find = |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let cursor = match (find("after_id"), find("before_id")) {
            (None, None) => Cursor::Start,
            (Some(id), None) => Cursor::After(id.clone()),
            (None, Some(id)) => Cursor::Before(id.clone()),
            (Some(_), Some(_)) => {
                let message = "`after_id` and `before_id` can't both be given";
                return Err(ApiError::invalid("after_id", "invalid_value", message));
            }
        };
        let limit = match find("limit").map(|limit| limit.parse()) {
            None => DEFAULT_LIMIT,
            Some(Ok(limit)) if (1..=MAX_LIMIT).contains(&limit) => limit,
            Some(_) => {
                let message = format!("`limit` must be an integer from 1 to {MAX_LIMIT}");
                return Err(ApiError::invalid("limit", "invalid_value", message));
            }
        };
        let is_stage = |(key, _): &&(String, String)| key == "lifecycle" || key == "lifecycle[]";
        let mut stages = pairs.iter().filter(is_stage).map(|(_, stage)| stage).peekable();
        let wants_active = stages.peek().is_none() || stages.any(|stage| stage == "active");
        Ok(Self { limit, cursor, wants_active })
    }

    /// The page of `models`, which are sorted by name.
    pub(super) fn page(self, mut models: Vec<ModelInfo>) -> ModelPage {
        models.retain(|model| {
            self.wants_active
                && match &self.cursor {
                    Cursor::Start => true,
                    Cursor::After(id) => model.id > *id,
                    Cursor::Before(id) => model.id < *id,
                }
        });
        let has_more = models.len() > self.limit;
        if let Cursor::Before(_) = self.cursor {
            models.drain(..models.len().saturating_sub(self.limit));
        }
        models.truncate(self.limit);
        ModelPage {
            has_more,
            first_id: models.first().map(|model| model.id.clone()),
            last_id: models.last().map(|model| model.id.clone()),
            data: models,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(id: &str) -> ModelInfo {
        ModelInfo {
            id: id.into(),
            kind: "model".into(),
            display_name: id.into(),
            created_at: rfc3339(0),
            lifecycle: "active".into(),
            max_input_tokens: Some(1),
            max_tokens: Some(1),
        }
    }

    fn read(pairs: &[(&str, &str)]) -> Result<PageQuery, ApiError> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        PageQuery::read(&pairs.collect::<Vec<_>>())
    }

    /// The names on a page of five models, and whether there are more.
    fn page(pairs: &[(&str, &str)]) -> (String, bool) {
        let page = read(pairs).unwrap().page(["a", "b", "c", "d", "e"].map(model).into());
        let ids: String = page.data.iter().map(|model| model.id.as_str()).collect();
        assert_eq!(page.first_id.as_deref(), ids.get(..1));
        assert_eq!(
            page.last_id.as_deref(),
            ids.get(ids.len().saturating_sub(1)..).filter(|id| !id.is_empty())
        );
        (ids, page.has_more)
    }

    #[test]
    fn pages_follow_each_other_in_both_directions() {
        for (pairs, ids, has_more) in [
            (&[][..], "abcde", false),
            (&[("limit", "2")], "ab", true),
            (&[("limit", "2"), ("after_id", "b")], "cd", true),
            (&[("limit", "2"), ("after_id", "d")], "e", false),
            (&[("after_id", "e")], "", false),
            (&[("limit", "2"), ("before_id", "e")], "cd", true),
            (&[("limit", "2"), ("before_id", "c")], "ab", false),
            (&[("after_id", "bb"), ("unknown", "1")], "cde", false),
            (&[("lifecycle[]", "retired")], "", false),
            (&[("lifecycle[]", "retired"), ("lifecycle[]", "active")], "abcde", false),
        ] {
            assert_eq!(page(pairs), (ids.to_owned(), has_more), "{pairs:?}");
        }
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for pairs in [
            &[("limit", "0")][..],
            &[("limit", "1001")],
            &[("limit", "x")],
            &[("limit", "")],
            &[("after_id", "a"), ("before_id", "b")],
        ] {
            assert!(read(pairs).is_err(), "{pairs:?}");
        }
    }
}
