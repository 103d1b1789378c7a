//! The command against a server on a real socket that streams what it is told to.

#![expect(clippy::unwrap_used, reason = "what a test stands on may fail it")]

mod server;

use std::path::Path;

use clap::Parser;
use sconce_bench::Bench;
use serde_json::{Value, json};
use server::{Answers, Server};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: Bench,
}

/// Runs the command, and reads its JSON.
fn bench(server: &Server, words: &[&str]) -> (anyhow::Result<()>, Value) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("out.json");
    let common = ["bench", "--url", &server.url, "--no-live", "--output-json"];
    let words = common.into_iter().chain([json.to_str().unwrap()]).chain(words.iter().copied());
    let ran = Cli::parse_from(words).bench.run();
    (ran, read(&json))
}

fn read(path: &Path) -> Value {
    std::fs::read(path).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap())
}

#[test]
fn a_run_counts_what_the_server_says() {
    let server = Server::start(Answers::default());

    let (ran, json) = bench(&server, &["--concurrency", "4", "-n", "20", "--output-tokens", "8"]);

    ran.unwrap();
    assert_eq!((&json["completed"], &json["failed"]), (&json!(20), &json!(0)));
    assert_eq!((&json["model_id"], &json["total_output_tokens"]), (&json!("m"), &json!(160)));
    assert_eq!(json["total_cached_tokens"], 20 * 16);
    assert_eq!(json["metrics"]["itl"]["count"], 20 * 7);
    assert_eq!(json["metrics"]["ttft"]["count"], 20);
    assert!(json["metrics"].get("lateness").is_none(), "nothing was scheduled");
    assert!(json["max_concurrent_requests"].as_u64().unwrap() <= 4);
    let asked = server.asked();
    assert_eq!(asked.len(), 20);
    assert_eq!(asked[0]["stream_options"], json!({"include_usage": true}));
    assert_eq!(asked[0]["max_completion_tokens"], 8);
}

#[test]
fn a_slow_server_does_not_slow_the_schedule_down() {
    // Answers only once all have asked: a load that waited for answers would never end.
    let server = Server::start(Answers { together: 12, ..Answers::default() });

    let (ran, json) = bench(&server, &["--rate", "200", "-n", "12", "--burstiness", "inf"]);

    ran.unwrap();
    assert_eq!((&json["completed"], &json["max_concurrent_requests"]), (&json!(12), &json!(12)));
    let mean = |metric: &str| json["metrics"][metric]["mean"].as_f64().unwrap();
    assert!(mean("ttft_intended") >= mean("ttft"));
    assert_eq!(json["request_rate"], 200.0);
}

#[test]
fn requests_that_wait_for_a_place_are_late() {
    let server = Server::start(Answers::default());

    let words = ["--rate", "5000", "-n", "40", "--max-concurrency", "1", "--slo", "ttft=1us"];
    let (ran, json) = bench(&server, &words);

    ran.unwrap();
    assert_eq!(json["max_concurrent_requests"], 1);
    assert!(json["metrics"]["lateness"]["max"].as_f64().unwrap() > 0.0);
    assert_eq!(json["request_goodput"], 0.0);
}

#[test]
fn conversations_hold_the_answers_of_before() {
    let server = Server::start(Answers::default());

    let words = ["--turns", "3", "-n", "2", "--shared-prefixes", "1", "--output-tokens", "2"];
    let (ran, json) = bench(&server, &words);

    ran.unwrap();
    assert_eq!(json["num_prompts"], 6);
    let asked = server.asked();
    let roles = |index: usize| {
        let messages = asked[index]["messages"].as_array().unwrap().iter();
        messages.map(|message| message["role"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(roles(2), ["system", "user", "assistant", "user", "assistant", "user"]);
    assert_eq!(asked[2]["messages"][2]["content"], " hi hi");
    assert_eq!(asked[0]["messages"][0], asked[3]["messages"][0], "the prefix is shared");
}

#[test]
fn errors_are_counted_by_kind() {
    let server = Server::start(Answers { refuse_every: 2, break_every: 3, ..Answers::default() });

    let (ran, json) = bench(&server, &["-n", "12", "--assert", "error_rate<1%"]);

    let error = ran.unwrap_err().to_string();
    assert_eq!(error, "1 of 1 conditions do not hold");
    assert_eq!(json["errors_by_kind"], json!({"http_429": 6, "stream_worker_lost": 2}));
    assert_eq!((&json["completed"], &json["failed"]), (&json!(4), &json!(8)));

    let nothing = Server::start(Answers { refuse_every: 1, ..Answers::default() });
    let (ran, _) = bench(&nothing, &["-n", "3"]);
    assert_eq!(ran.unwrap_err().to_string(), "not one of 3 requests was answered: 3 http_429");
}

#[test]
fn a_trace_is_replayed_at_its_times() {
    let server = Server::start(Answers::default());
    let trace = tempfile::NamedTempFile::new().unwrap();
    let line = |ms: u64, id: u64| {
        format!(
            "{{\"timestamp\": {ms}, \"input_length\": 20, \"output_length\": 3, \"hash_ids\": [{id}]}}\n"
        )
    };
    std::fs::write(trace.path(), line(1000, 1) + &line(1400, 2) + &line(1800, 1)).unwrap();
    let path = trace.path().to_str().unwrap();

    let (ran, json) = bench(&server, &["--trace", path, "--speed", "4"]);

    ran.unwrap();
    let starts: Vec<_> =
        json["start_times"].as_array().unwrap().iter().map(|t| t.as_f64().unwrap()).collect();
    assert!(starts[1] >= 0.1 && starts[2] >= 0.2, "{starts:?}");
    let asked = server.asked();
    assert_eq!(asked[0]["messages"], asked[2]["messages"]);
    assert_eq!(json["total_output_tokens"], 9);

    // With a load of its own, only what it asks is taken.
    let (ran, json) = bench(&server, &["--trace", path, "--concurrency", "2", "-n", "6"]);
    ran.unwrap();
    assert_eq!((&json["completed"], &json["load"]), (&json!(6), &json!("concurrency 2")));
}

#[test]
fn every_format_of_a_trace_is_replayed_at_its_times() {
    let pair = |asked: &str, answered: &str| json!([{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]);
    let share_gpt = [0.5, 0.7].map(|at| {
        json!({"timestamp": at, "conversations": pair("a b", "twelve chars")}).to_string()
    });
    let burst_gpt = [
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type".to_owned(),
        "5,ChatGPT,30,3,33,Conversation log".to_owned(),
        "5.1,ChatGPT,30,0,30,Conversation log".to_owned(),
        "5.2,GPT-4,30,3,33,API log".to_owned(),
    ];
    let prompts = [0.1, 0.3].map(|at| {
        json!({"timestamp": at, "prompt": "a b", "max_tokens": 3, "body": {"top_k": 2}}).to_string()
    });
    for (format, lines) in
        [("sharegpt", &share_gpt[..]), ("burstgpt", &burst_gpt), ("prompts", &prompts)]
    {
        let server = Server::start(Answers::default());
        let trace = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(trace.path(), lines.join("\n")).unwrap();

        let (ran, json) = bench(&server, &["--trace", trace.path().to_str().unwrap()]);

        ran.unwrap();
        assert_eq!((&json["completed"], &json["total_output_tokens"]), (&json!(2), &json!(6)));
        let starts = json["start_times"].as_array().unwrap();
        assert!(starts[1].as_f64().unwrap() >= 0.199, "{format}: {starts:?}");
        assert!(json["metrics"].get("lateness").is_some(), "{format}");
        if format == "prompts" {
            assert_eq!(server.asked()[0]["top_k"], 2);
        }
    }
}

#[test]
fn ramps_and_bursts_are_told_as_they_were_asked_for() {
    let server = Server::start(Answers::default());

    let (ran, json) = bench(&server, &["--ramp", "10:30", "--duration", "1s", "--save-detailed"]);

    ran.unwrap();
    assert_eq!(
        (&json["ramp_up_strategy"], &json["load"]),
        (&json!("linear"), &json!("10 to 30 requests/s"))
    );
    assert_eq!(
        (&json["ramp_up_start_rps"], &json["ramp_up_end_rps"]),
        (&json!(10.0), &json!(30.0))
    );
    let rates: Vec<_> = json["rps_change_events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["rps"].as_u64().unwrap())
        .collect();
    assert!(rates[0] == 10 && rates.is_sorted() && rates[rates.len() - 1] < 30, "{rates:?}");
    let texts = json["generated_texts"].as_array().unwrap();
    assert!(
        texts.len() > 5 && texts.iter().all(|text| text.as_str().unwrap().starts_with(" hi hi"))
    );

    let words = ["--rate", "200", "-n", "10", "--burstiness", "0.5", "--max-concurrency", "4"];
    let (ran, json) = bench(&server, &words);
    ran.unwrap();
    assert_eq!((&json["burstiness"], &json["max_concurrency"]), (&json!(0.5), &json!(4)));
    assert!(json.get("ramp_up_strategy").is_none() && json.get("generated_texts").is_none());
    assert_eq!(json["queue_times"].as_array().unwrap().len(), 10);
}

#[test]
fn chunks_of_several_tokens_are_split_where_the_server_tells() {
    let server = Server::start(Answers { tokens_per_chunk: 4, ..Answers::default() });
    let words = ["-n", "2", "--output-tokens", "12"];

    let (_, plain) = bench(&server, &words);
    let (_, told) = bench(&server, &[&words[..], &["--continuous-usage"]].concat());

    assert_eq!(plain["metrics"]["itl"]["count"], 2 * 2);
    let is_told = |json: &Value| json["warnings"].to_string().contains("several tokens");
    assert!(is_told(&plain) && !is_told(&told));
    assert_eq!(told["metrics"]["itl"]["count"], 2 * 8);
}

#[test]
fn whole_answers_texts_and_vectors_are_asked_for() {
    let server = Server::start(Answers::default());
    let run = |words: &[&str]| {
        let (ran, json) = bench(&server, &[words, &["-n", "2"]].concat());
        ran.unwrap();
        assert_eq!(json["completed"], 2, "{words:?}");
        json
    };

    let whole = run(&["--no-stream"]);
    assert!(whole["metrics"].get("ttft").is_none() && whole["total_output_tokens"] == 128);
    assert_eq!(run(&["--endpoint", "completions"])["metrics"]["ttft"]["count"], 2);
    let vectors = run(&["--endpoint", "embeddings", "--texts", "3"]);
    assert_eq!(
        (&vectors["total_output_tokens"], &vectors["total_input_sequences"]),
        (&json!(0), &json!(6))
    );
    assert!(vectors["input_sequence_throughput"].as_f64().unwrap() > 0.0);
    assert_eq!(server.asked().last().unwrap()["input"].as_array().unwrap().len(), 3);
    let mixed = run(&["--tools-share", "0.5", "--schema-share", "0.5"]);
    assert_eq!(mixed["failed"], 0);
}

#[test]
fn a_sweep_has_all_its_runs_and_pages_are_written() {
    let server = Server::start(Answers::default());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (html, csv) = (path("r.html"), path("r.csv"));

    let words = ["--sweep", "concurrency=1,3", "-n", "6", "--html", &html, "--output-csv", &csv];
    let (ran, json) = bench(&server, &words);

    ran.unwrap();
    let loads: Vec<_> = json["points"].as_array().unwrap().iter().map(|p| &p["load"]).collect();
    assert_eq!(loads, [&json!("concurrency 1"), &json!("concurrency 3")]);
    assert!(std::fs::read_to_string(html).unwrap().contains("Throughput and time to first token"));
    assert_eq!(std::fs::read_to_string(csv).unwrap().lines().count(), 1 + 12);
    let asked: std::collections::HashSet<_> =
        server.asked().iter().map(|body| body["messages"].to_string()).collect();
    assert_eq!(asked.len(), 12, "no prompt comes twice");
}

#[test]
fn two_runs_are_compared() {
    let server = Server::start(Answers::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json").to_str().unwrap().to_owned();
    let words = ["bench", "--url", &server.url, "-n", "20", "--output-json", &path];
    Cli::parse_from(words).bench.run().unwrap();

    // Times that the machine has no part in.
    let mut told = read(Path::new(&path));
    let times = |from: f64| (0..20).map(|i| (from + f64::from(i)) / 1e3).collect::<Vec<_>>();
    (told["ttfts"], told["e2els"]) = (times(10.0).into(), times(50.0).into());
    std::fs::write(&path, told.to_string()).unwrap();

    let compared = Cli::parse_from(["bench", "compare", &path, &path, "--max-regression", "0%"]);
    compared.bench.run().unwrap();

    // The same run, twice as slow.
    let mut slow = told;
    (slow["ttfts"], slow["e2els"]) = (
        times(10.0).into_iter().map(|time| time * 2.0).collect(),
        times(50.0).into_iter().map(|time| time * 2.0).collect(),
    );
    let other = directory.path().join("b.json").to_str().unwrap().to_owned();
    std::fs::write(&other, slow.to_string()).unwrap();
    let compared = Cli::parse_from(["bench", "compare", &path, &other, "--max-regression", "50%"]);
    let error = compared.bench.run().unwrap_err().to_string();
    assert!(error.starts_with("worse by more than 50.0 %: TTFT mean"), "{error}");
}
