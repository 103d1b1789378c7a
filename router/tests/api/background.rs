//! Responses that are made in the background: asked for again, followed, cancelled.

use sconce_proto::worker::Finish;
use sconce_proto::worker::rejected::Reason;
use serde_json::{Value, json};

use crate::responses::{events, types};
use crate::service::{Answer, Service, answer, start, wait};
use crate::worker::Received;

async fn begin(service: &mut Service, change: Value) -> (String, Received) {
    let mut body = json!({"background": true});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let response = service.respond(body);
    let request = service.worker.submitted().await;
    let answer = answer(wait(response).await).await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("queued")));
    (format!("/v1/responses/{}", answer.body["id"].as_str().unwrap()), request)
}

/// Asks until the response is in another state than this.
async fn after(service: &Service, path: &str, status: &str) -> Answer {
    loop {
        let answer = service.get(path).await;
        if answer.body["status"] != status {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_response_is_made_while_nobody_waits() {
    let mut service = start().await;
    let (path, request) = begin(&mut service, json!({})).await;
    assert_eq!(service.get(&path).await.body["status"], "queued");
    request.say(0, "a");
    assert_eq!(after(&service, &path, "queued").await.body["status"], "in_progress");
    let early = json!({"previous_response_id": path.rsplit('/').next()});
    let early = answer(wait(service.respond(early)).await).await;
    assert_eq!(early.body["error"]["code"], "previous_response_not_complete");
    request.say(0, "b");
    request.finish(0, Finish::StopToken);

    let done = after(&service, &path, "in_progress").await.body;

    assert_eq!((&done["status"], &done["background"]), (&json!("completed"), &json!(true)));
    assert_eq!(done["output"][0]["content"][0]["text"], "ab");
    assert_eq!(service.get(&format!("{path}/input_items")).await.body["data"][0]["role"], "user");
}

#[tokio::test]
async fn it_can_be_followed_from_any_event() {
    let mut service = start().await;
    let (path, request) = begin(&mut service, json!({})).await;
    request.say(0, "ab");
    request.finish(0, Finish::StopToken);

    let all = events(service.fetch(&format!("{path}?stream=true")).await).await;
    assert_eq!(types(&all)[..3], ["response.created", "response.queued", "response.in_progress"]);
    assert_eq!(types(&all).last(), Some(&"response.completed"));
    assert_eq!(all.last().unwrap()["response"], service.get(&path).await.body);

    let rest = service.fetch(&format!("{path}?stream=true&starting_after=3")).await;
    let rest = rest.text().await.unwrap();
    assert!(rest.starts_with("event: response.content_part.added\n"), "{rest}");
    let beyond = service.get(&format!("{path}?stream=true&starting_after=99")).await;
    assert_eq!((beyond.status, &beyond.body["error"]["param"]), (400, &json!("starting_after")));
    let alone = service.get(&format!("{path}?starting_after=1")).await;
    assert_eq!((alone.status, &alone.body["error"]["param"]), (400, &json!("starting_after")));
}

#[tokio::test]
async fn its_stream_goes_on_when_its_client_hangs_up() {
    let mut service = start().await;
    let response = service.respond(json!({"background": true, "stream": true}));
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let mut response = wait(response).await;
    let first = String::from_utf8(response.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    let data = first.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let id = serde_json::from_str::<Value>(data).unwrap()["response"]["id"].clone();
    let path = format!("/v1/responses/{}", id.as_str().unwrap());

    drop(response);
    request.say(0, "b");
    request.finish(0, Finish::StopToken);

    let done = after(&service, &path, "in_progress").await.body;
    assert_eq!(done["output"][0]["content"][0]["text"], "ab");
}

#[tokio::test]
async fn it_can_be_cancelled_once() {
    let mut service = start().await;
    let (path, request) = begin(&mut service, json!({})).await;
    request.say(0, "a");
    after(&service, &path, "queued").await;
    let followed = service.fetch(&format!("{path}?stream=true")).await;

    for _ in 0..2 {
        let cancelled = service.act(&format!("{path}/cancel")).await;
        assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelled")));
    }

    assert_eq!(service.worker.cancelled().await, request.submit.request_id);
    assert!(followed.text().await.unwrap().contains("response_cancelled"));
    assert_eq!(service.get(&path).await.body["status"], "cancelled");
}

#[tokio::test]
async fn deleting_it_cancels_it() {
    let mut service = start().await;
    let (path, request) = begin(&mut service, json!({})).await;

    assert_eq!(service.delete(&path).await.status, 200);

    assert_eq!(service.worker.cancelled().await, request.submit.request_id);
    assert_eq!(service.get(&path).await.status, 404);
}

#[tokio::test]
async fn how_it_fails_is_told_later() {
    let mut service = start().await;
    let (path, request) = begin(&mut service, json!({})).await;
    request.reject(Reason::QueueFull, "full");
    let failed = after(&service, &path, "queued").await.body;
    assert_eq!(
        (&failed["status"], &failed["error"]["code"]),
        (&json!("failed"), &json!("queue_full"))
    );

    let (path, request) = begin(&mut service, json!({})).await;
    request.say(0, "a");
    after(&service, &path, "queued").await;
    service.worker.die().await;
    let failed = after(&service, &path, "in_progress").await.body;
    assert_eq!(
        (&failed["status"], &failed["error"]["code"]),
        (&json!("failed"), &json!("worker_lost"))
    );
    assert_eq!(failed["output"][0]["content"][0]["text"], "a");
}

#[tokio::test]
async fn what_is_not_in_the_background_can_not_be_followed_or_cancelled() {
    let mut service = start().await;
    let response = service.respond(json!({}));
    service.worker.submitted().await.answer("a");
    let body = answer(wait(response).await).await.body;
    let path = format!("/v1/responses/{}", body["id"].as_str().unwrap());

    assert_eq!(service.act(&format!("{path}/cancel")).await.status, 400);
    assert_eq!(service.get(&format!("{path}?stream=true")).await.body["error"]["param"], "stream");
    let unstored = service.respond(json!({"background": true, "store": false}));
    let unstored = answer(wait(unstored).await).await;
    assert_eq!((unstored.status, &unstored.body["error"]["param"]), (400, &json!("background")));
    assert!(service.worker.is_idle());
}
