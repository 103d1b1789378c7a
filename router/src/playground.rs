//! The chat page at `/`: files of `router/playground`, a part of the binary. They hold nothing that
//! is not public; what the page asks for goes through the API, with the user's key.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest, Sha256};

use crate::api::reply::ErrorBody;
use crate::error::refusal::Refusal;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// No script but the page's own runs, and nothing is asked of another host, whatever a model writes.
/// Styles on elements are what typeset formulas are made of.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    style-src-attr 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");

/// A file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

macro_rules! files {
    ($($name:literal: $kind:expr,)*) => {
        &[$(File {
            name: $name,
            kind: $kind,
            content: include_bytes!(concat!("../playground/", $name)),
        },)*]
    };
}

const FILES: &[File] = files! {
    "index.html": HTML,
    "style.css": CSS,
    "text.css": CSS,
    "api.js": SCRIPT,
    "chat.js": SCRIPT,
    "dom.js": SCRIPT,
    "heatmap.js": SCRIPT,
    "live.js": SCRIPT,
    "main.js": SCRIPT,
    "markdown.js": SCRIPT,
    "math.js": SCRIPT,
    "message.js": SCRIPT,
    "picker.js": SCRIPT,
    "prometheus.js": SCRIPT,
    "request.js": SCRIPT,
    "settings.js": SCRIPT,
    "sse.js": SCRIPT,
    "storage.js": SCRIPT,
    "tabs.js": SCRIPT,
    "tree.js": SCRIPT,
    "vendor/LICENSES.txt": TEXT,
    "vendor/highlight.min.js": SCRIPT,
    "vendor/marked.esm.js": SCRIPT,
    "vendor/purify.es.mjs": SCRIPT,
    "vendor/temml.min.js": SCRIPT,
};

/// `GET /`.
#[utoipa::path(
    get, path = "/", tag = "documentation", summary = "The playground: a page to chat with models",
    responses((
        status = 200, body = String, content_type = "text/html", description = "A page of HTML",
    )),
)]
pub(crate) async fn page(headers: HeaderMap) -> Response {
    answer("index.html", &headers)
}

/// `GET /playground/{file}`.
#[utoipa::path(
    get, path = "/playground/{file}", tag = "documentation", summary = "A file of the playground",
    params(("file" = String, Path, description = "Its name", example = "main.js")),
    responses(
        (status = 200, body = String, content_type = "text/javascript", description = "The file"),
        (status = 404, body = ErrorBody, description = "There is no such file"),
    ),
)]
pub(crate) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    answer(&name, &headers)
}

fn answer(name: &str, headers: &HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        return Refusal::UnknownUrl.into_response();
    };
    let tag = tag(file);
    let all = [
        (CONTENT_TYPE, file.kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (PERMISSIONS_POLICY, "camera=(), geolocation=(), microphone=()"),
        // Asked for again each time, so that a new version of the server is a new page.
        (CACHE_CONTROL, "no-cache"),
        (ETAG, &tag),
    ];
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|known| known == tag.as_str());
    if known {
        return (StatusCode::NOT_MODIFIED, all).into_response();
    }
    (all, file.content).into_response()
}

fn tag(file: &File) -> String {
    let hash = Sha256::digest(file.content);
    format!("\"{}\"", hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(name: &str, headers: &HeaderMap) -> Response {
        answer(name, headers)
    }

    #[test]
    fn every_file_of_the_folder_is_served_and_no_other() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("playground");
        let mut names = Vec::new();
        for (prefix, folder) in [("", folder.clone()), ("vendor/", folder.join("vendor"))] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    names.push(format!("{prefix}{}", entry.file_name().to_str().unwrap()));
                }
            }
        }
        names.sort();
        let mut served: Vec<_> = FILES.iter().map(|file| file.name).collect();
        served.sort_unstable();

        assert_eq!(names, served);
        let strange = ["../Cargo.toml", "vendor", "", "index.html/", "MAIN.JS"];
        for name in strange {
            assert_eq!(get(name, &HeaderMap::new()).status(), StatusCode::NOT_FOUND, "{name}");
        }
    }

    #[test]
    fn a_page_that_the_browser_has_is_not_sent_again() {
        let first = get("main.js", &HeaderMap::new());
        let tag = first.headers()[ETAG].clone();
        assert_eq!(first.headers()[CONTENT_TYPE], SCRIPT);

        let again = get("main.js", &HeaderMap::from_iter([(IF_NONE_MATCH, tag.clone())]));
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        let other = get("api.js", &HeaderMap::from_iter([(IF_NONE_MATCH, tag)]));
        assert_eq!(other.status(), StatusCode::OK);
    }

    #[test]
    fn the_page_may_reach_no_other_host() {
        let page = get("index.html", &HeaderMap::new());
        let policy = page.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();

        assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
        for file in FILES.iter().filter(|file| !file.name.starts_with("vendor/")) {
            let text = std::str::from_utf8(file.content).unwrap();
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for quote in ['"', '\'', '`'] {
                let found = text.contains(&format!("{quote}http"));
                assert!(!found, "{} names another host", file.name);
            }
        }
    }
}
