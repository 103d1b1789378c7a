//! Lists that come in pages.

use serde::Deserialize;

/// A page of a list.
#[derive(Clone, Debug, Deserialize)]
pub struct Page<T> {
    /// What is on it.
    pub data: Vec<T>,
    /// The id of the last.
    #[serde(default)]
    pub last_id: Option<String>,
    /// Whether there are more.
    #[serde(default)]
    pub has_more: bool,
}

/// Which files, or batches, are listed.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// At most so many.
    pub limit: Option<u32>,
    /// Only those after this id: [`Page::last_id`] of the page before.
    pub after: Option<String>,
    /// Only files for this.
    pub purpose: Option<String>,
}

impl ListQuery {
    pub(crate) fn path(&self, path: &str) -> String {
        // Only a URL knows how a query is written.
        let Ok(mut url) = reqwest::Url::parse("http://localhost") else { return path.to_owned() };
        if let Some(limit) = self.limit {
            url.query_pairs_mut().append_pair("limit", &limit.to_string());
        }
        for (name, value) in [("after", &self.after), ("purpose", &self.purpose)] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        url.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
    }
}

impl<T> Page<T> {
    /// What to ask for next, if there is more.
    pub fn next(&self, query: &ListQuery) -> Option<ListQuery> {
        let after = self.last_id.clone().filter(|_| self.has_more)?;
        Some(ListQuery { after: Some(after), ..query.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_what_was_asked_for() {
        assert_eq!(ListQuery::default().path("files"), "files");
        let query = ListQuery {
            limit: Some(2),
            after: Some("a b&c".into()),
            purpose: Some("batch".into()),
        };
        assert_eq!(query.path("files"), "files?limit=2&after=a+b%26c&purpose=batch");
    }
}
