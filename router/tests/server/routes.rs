use std::collections::BTreeSet;

use sconce_router::config::MetricsAccess;
use sconce_router::docs::Document;
use sconce_router::server::route::{Access, Route, routes};
use utoipa::OpenApi;

use crate::support::{error, header, message_error, start, status};

/// A path with its placeholders filled in.
fn filled(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_route_without_a_key_does_what_its_policy_says() {
    let router = start(|_| {}).await;
    for route in routes() {
        let request = format!(
            "{} {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}",
            route.method,
            filled(route.path)
        );

        let answer = router.exchange(request).await;

        match route.access {
            Access::Public => assert_ne!(status(&answer), 401, "{}", route.path),
            Access::Key | Access::Admin | Access::Scraper => {
                assert_eq!(status(&answer), 401, "{}", route.path);
                if route.path.starts_with("/v1/messages") {
                    assert_eq!(message_error(&answer)["type"], "authentication_error");
                } else {
                    error(&answer);
                }
            }
        }
    }
}

#[test]
fn nothing_that_computes_or_tells_of_use_is_public() {
    let public: BTreeSet<_> = routes()
        .into_iter()
        .filter(|route| route.access == Access::Public)
        .map(|route| (route.method.to_string(), route.path))
        .collect();

    let expected = ["/docs", "/health", "/live", "/openapi.json", "/ready"];
    let expected: BTreeSet<_> = expected.into_iter().map(|p| ("GET".to_owned(), p)).collect();
    assert_eq!(public, expected);
}

#[test]
fn the_document_describes_exactly_the_routes() {
    let document = serde_json::to_value(Document::openapi()).unwrap();
    let described: BTreeSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, operation)| {
                let needs_key = operation.get("security").is_some();
                (method.to_uppercase(), path.clone(), needs_key)
            })
        })
        .collect();

    let routed: BTreeSet<_> = routes()
        .into_iter()
        .map(|route| {
            let needs_key = route.access != Access::Public;
            (route.method.to_string(), route.path.replace("{*", "{"), needs_key)
        })
        .collect();
    assert_eq!(described, routed);
}

#[tokio::test]
async fn every_route_names_its_methods_to_a_wrong_one() {
    let router = start(|_| {}).await;
    for route in routes() {
        let request = format!(
            "PATCH {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            filled(route.path)
        );

        let answer = router.exchange(request).await;

        assert_eq!(status(&answer), 405, "{}", route.path);
        if route.path.starts_with("/v1/messages") {
            assert_eq!(message_error(&answer)["type"], "invalid_request_error");
        } else {
            assert_eq!(error(&answer)["code"], "method_not_supported");
        }
        let allow = header(&answer, "allow").unwrap();
        let allowed = |method: &str| allow.split(',').any(|allowed| allowed == method);
        let is_there = |method: &str| {
            let same_path = |other: &Route| other.path == route.path && other.method == method;
            routes().iter().any(same_path)
        };
        for method in ["GET", "POST", "DELETE"] {
            assert_eq!(allowed(method), is_there(method), "{allow}");
        }
        assert_eq!(allowed("HEAD"), is_there("GET"), "{allow}");
    }
}

#[tokio::test]
async fn what_is_refused_under_messages_is_worded_as_anthropic_does() {
    let router = start(|config| config.limits.max_body_bytes = 10).await;
    let post = |path: &str, kind: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: {}\r\n\
             content-type: {kind}\r\ncontent-length: {length}\r\n\r\n{{}}",
            router.key
        )
    };
    for (request, expected, kind) in [
        (post("/v1/messages", "application/json", 11), 413, "request_too_large"),
        (post("/v1/messages", "text/plain", 2), 415, "invalid_request_error"),
        (post("/v1/messages", "application/json", 2), 400, "invalid_request_error"),
        (post("/v1/messages/batches", "application/json", 2), 404, "not_found_error"),
    ] {
        let answer = router.exchange(request).await;

        assert_eq!(status(&answer), expected, "{answer}");
        assert_eq!(message_error(&answer)["type"], kind);
    }
    let other = router.exchange(post("/v1/messages2", "application/json", 2)).await;
    assert_eq!(error(&other)["code"], "unknown_url");
}

#[tokio::test]
async fn metrics_are_public_only_when_asked_for() {
    let closed = start(|_| {}).await;
    assert_eq!(status(&closed.get("/metrics", &[]).await), 401);
    assert_eq!(status(&closed.get("/metrics", &[("x-api-key", &closed.key)]).await), 200);

    let open = start(|config| config.metrics = MetricsAccess::Public).await;
    assert_eq!(status(&open.get("/metrics", &[]).await), 200);
}

#[tokio::test]
async fn the_documentation_is_served() {
    let router = start(|_| {}).await;

    let page = router.get("/docs", &[]).await;
    assert_eq!(status(&page), 200);
    assert!(header(&page, "content-security-policy").unwrap().contains("default-src 'none'"));
    assert!(page.contains("/openapi.json"));

    let document = router.get("/openapi.json", &[]).await;
    assert_eq!(header(&document, "content-type"), Some("application/json"));
}
