//! The Files API, and forms that are not as they should be.

use reqwest::Method;
use sconce_router::config::FileLimits;
use serde_json::{Value, json};

use crate::service::{Answer, Service, answer, start, start_configured};

const FORM: &str = "multipart/form-data; boundary=edge";

/// A form of these parts, each a head and what follows it.
fn form(parts: &[(&str, &str)]) -> String {
    let part = |(name, text): &(&str, &str)| {
        format!("--edge\r\ncontent-disposition: form-data; name={name}\r\n\r\n{text}\r\n")
    };
    parts.iter().map(part).collect::<String>() + "--edge--\r\n"
}

const FILE: &str = "\"file\"; filename=\"a.jsonl\"";

async fn send(service: &Service, body: impl Into<reqwest::Body>) -> Answer {
    let request = service.bare(Method::POST, "/v1/files").header("content-type", FORM);
    answer(request.body(body).send().await.unwrap()).await
}

async fn upload(service: &Service, parts: &[(&str, &str)]) -> Answer {
    send(service, form(parts)).await
}

fn error(answer: &Answer) -> (u16, Option<&str>, Option<&str>) {
    let error = &answer.body["error"];
    (answer.status, error["param"].as_str(), error["code"].as_str())
}

#[tokio::test]
async fn a_file_is_stored_in_openais_shape_whatever_comes_first() {
    let service = start().await;
    let parts = [
        ("purpose", "batch"),
        (FILE, "{}\n"),
        ("\"expires_after[anchor]\"", "created_at"),
        ("\"expires_after[seconds]\"", "3600"),
    ];
    for turn in 0..parts.len() {
        let mut parts = parts;
        parts.rotate_left(turn);

        let stored = upload(&service, &parts).await;

        assert_eq!(stored.status, 200, "{}", stored.body);
        let id = stored.body["id"].as_str().unwrap();
        let created = stored.body["created_at"].as_u64().unwrap();
        assert!(id.starts_with("file-"));
        let expected = json!({
            "id": id, "object": "file", "bytes": 3, "created_at": created,
            "expires_at": created + 3600, "filename": "a.jsonl", "purpose": "batch",
            "status": "processed", "status_details": null,
        });
        assert_eq!(stored.body, expected);
        assert_eq!(service.get(&format!("/v1/files/{id}")).await.body, expected);
    }
    let kept = upload(&service, &[("purpose", "user_data"), (FILE, "x")]).await.body;
    assert_eq!(kept["expires_at"], Value::Null);
}

#[tokio::test]
async fn contents_are_downloaded_and_never_shown_as_a_page() {
    let service = start().await;
    let name = "\"file\"; filename=\"a\u{e9}<b>.html\"";
    let stored = upload(&service, &[("purpose", "user_data"), (name, "<script>")]).await;

    let path = format!("/v1/files/{}/content", stored.body["id"].as_str().unwrap());
    let content = service.fetch(&path).await;

    let header = |name: &str| content.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/octet-stream");
    assert_eq!(header("content-length"), "8");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("content-disposition"), "attachment; filename=\"a__b_.html\"");
    assert_eq!(content.text().await.unwrap(), "<script>");
}

#[tokio::test]
async fn lists_have_pages_an_order_and_a_purpose() {
    let service = start().await;
    let mut ids = Vec::new();
    for purpose in ["vision", "user_data", "user_data"] {
        let stored = upload(&service, &[("purpose", purpose), (FILE, "x")]).await;
        ids.push(stored.body["id"].as_str().unwrap().to_owned());
    }
    let list = async |query: &str| service.get(&format!("/v1/files?{query}")).await;
    let listed = |answer: &Answer| {
        let data = answer.body["data"].as_array().unwrap();
        data.iter().map(|file| file["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    let first = list("limit=2&order=asc").await;
    assert_eq!(listed(&first), ids[..2]);
    assert_eq!(first.body["has_more"], true);
    assert_eq!(first.body["last_id"], *ids[1]);
    let rest = list(&format!("limit=2&order=asc&after={}", ids[1])).await;
    assert_eq!((listed(&rest), &rest.body["has_more"]), (ids[2..].to_vec(), &json!(false)));
    assert_eq!(listed(&list("purpose=vision").await), ids[..1]);
    assert_eq!(error(&list("after=file-none").await).0, 404);
    for wrong in ["limit=0", "limit=10001", "order=up", "purpose=fun"] {
        assert_eq!(error(&list(wrong).await).0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_form_that_says_too_little_or_too_much_is_refused_by_name() {
    // What a refused upload wrote is removed after its answer, and takes up a place until then.
    let limits = FileLimits { max_uploads: 64, ..FileLimits::default() };
    let service = start_configured(|_| {}, |config| config.files = limits).await;
    let file = (FILE, "{}\n");
    let purpose = ("purpose", "user_data");
    for (parts, param, code) in [
        (vec![purpose], "file", "missing_required_parameter"),
        (vec![file], "purpose", "missing_required_parameter"),
        (vec![file, file, purpose], "file", "duplicate_parameter"),
        (vec![purpose, purpose, file], "purpose", "duplicate_parameter"),
        (vec![purpose, file, ("other", "x")], "other", "unknown_parameter"),
        (vec![file, ("purpose", "batch_output")], "purpose", "invalid_value"),
        (vec![(FILE, "{}\nno\n"), ("purpose", "batch")], "file", "invalid_jsonl"),
        (vec![("purpose", "batch"), (FILE, "{}\nno\n")], "file", "invalid_jsonl"),
        (
            vec![purpose, file, ("\"expires_after[seconds]\"", "3600")],
            "expires_after[anchor]",
            "missing_required_parameter",
        ),
        (
            vec![purpose, file, ("\"expires_after[seconds]\"", "60")],
            "expires_after[seconds]",
            "invalid_value",
        ),
        (
            vec![
                purpose,
                file,
                ("\"expires_after[anchor]\"", "last_active_at"),
                ("\"expires_after[seconds]\"", "3600"),
            ],
            "expires_after[anchor]",
            "invalid_value",
        ),
    ] {
        let refused = upload(&service, &parts).await;
        assert_eq!(error(&refused), (400, Some(param), Some(code)), "{}", refused.body);
    }
    assert_eq!(service.get("/v1/files").await.body["data"], json!([]));
}

#[tokio::test]
async fn what_is_no_form_is_refused() {
    let service = start().await;
    let whole = form(&[("purpose", "user_data"), (FILE, "x")]);

    let broken = send(&service, whole[..whole.len() - 12].to_owned()).await;
    assert_eq!((broken.status, error(&broken).2), (400, Some("invalid_form")));
    // A head that never ends is not gathered to its end.
    let endless = format!("--edge\r\nx: {}", "y".repeat(3 << 20));
    let refused = send(&service, endless).await;
    assert_eq!((refused.status, error(&refused).2), (400, Some("invalid_form")));
    let many = send(&service, form(&[("purpose", "user_data"); 40])).await;
    assert_eq!(many.status, 400);
    let json = service.post("/v1/files", "{}").await.unwrap();
    assert_eq!(json.status(), 415);
}

#[tokio::test]
async fn large_files_and_many_are_refused() {
    let limits = FileLimits { max_file_bytes: 100_000, max_files: 2, ..FileLimits::default() };
    let service = start_configured(|_| {}, |config| config.files = limits).await;
    let large = "x".repeat(100_001);

    let refused = upload(&service, &[("purpose", "user_data"), (FILE, &large)]).await;
    assert_eq!(error(&refused), (413, Some("file"), Some("file_too_large")));
    let larger = "x".repeat(1_000_000);
    let refused = upload(&service, &[("purpose", "user_data"), (FILE, &larger)]).await;
    assert_eq!(refused.status, 413);

    for expected in [200, 200, 400] {
        let stored = upload(&service, &[("purpose", "user_data"), (FILE, &large[1..])]).await;
        assert_eq!(stored.status, expected, "{}", stored.body);
    }
    let metrics = service.text("/metrics").await;
    assert!(metrics.contains("sconce_files_stored_total{purpose=\"user_data\"}"), "{metrics}");
}

#[tokio::test]
async fn an_upload_that_pauses_for_too_long_is_refused() {
    let pause = std::time::Duration::from_millis(300);
    let service = start_configured(|_| {}, |config| config.limits.body_timeout = pause).await;
    let begun = form(&[("purpose", "user_data"), (FILE, "x")]);
    let begun = begun[..begun.len() - 12].to_owned();
    let piece = futures::stream::iter([Ok::<_, std::io::Error>(begun)]);
    let never = futures::stream::pending();

    let body = reqwest::Body::wrap_stream(futures::StreamExt::chain(piece, never));
    let refused = send(&service, body).await;

    assert_eq!((refused.status, error(&refused).2), (408, Some("request_timeout")));
    assert_eq!(service.get("/v1/files").await.body["data"], json!([]));
}
