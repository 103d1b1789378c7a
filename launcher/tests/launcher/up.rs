//! `sconce up` with a script for worker and router, and a web server for the readiness.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use clap::Parser;
use rustix::process::{Signal, getpid, kill_process};
use sconce_launcher::cli::{Hooks, Up};
use tokio::net::TcpListener;

use crate::support::{Site, list};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    up: Up,
}

/// A machine with a model, and a program that plays worker and router.
struct Stage {
    site: Site,
    directory: tempfile::TempDir,
    questions: Arc<AtomicU32>,
}

impl Stage {
    /// `worker` is what the worker's script does after it is ready. The router answers its third
    /// question with 200.
    async fn new(worker: &str) -> Self {
        let site = Site::new().await;
        let directory = tempfile::tempdir().unwrap();
        let questions = Arc::new(AtomicU32::new(0));
        let counter = questions.clone();
        let ready = move || async move {
            let asked = counter.fetch_add(1, Ordering::Relaxed);
            if asked < 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
        };
        let app = axum::Router::new().route("/ready", axum::routing::get(ready));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });

        let log = directory.path().join("log");
        let script = format!(
            "#!/bin/sh\nexec 2>/dev/null\nlog='{}'\n\
             case \"$*\" in *--describe*) cat '{}'; exit 0 ;; esac\necho \"$@\" >> \"$log\"\nrole=$1\n\
             trap 'echo \"$role stopped\" >> \"$log\"; exit 0' TERM\n\
             case $role in\n\
             worker) echo 'ready {{}}'; {worker} ;;\n\
             router) echo 'listening http://{address}' ;;\nesac\n\
             while read line; do :; done\necho \"$role lost its launcher\" >> \"$log\"\n",
            log.display(),
            directory.path().join("described").display()
        );
        let described = r#"{"task":"generate","device":"cuda"}"#;
        std::fs::write(directory.path().join("described"), described).unwrap();
        let program = directory.path().join("sconce");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(directory.path().join("tiny.gguf"), b"GGUF").unwrap();
        Self { site, directory, questions }
    }

    /// Has workers end with status 9 before they are ready.
    fn fail_workers(&self) {
        let program = self.directory.path().join("sconce");
        let script = std::fs::read_to_string(&program).unwrap();
        std::fs::write(&program, script.replace("worker) echo", "worker) exit 9; echo")).unwrap();
    }

    async fn up(&self, args: &[&str], out: &mut Vec<u8>) -> anyhow::Result<()> {
        let model = self.directory.path().join("tiny.gguf");
        let line = ["up", model.to_str().unwrap()].into_iter().chain(args.iter().copied());
        let up = Cli::try_parse_from(line)?.up;
        let hooks = Hooks {
            started: Instant::now(),
            ensure_first_key: Box::new(|database: PathBuf| {
                Box::pin(async move {
                    assert!(database.ends_with("sconce/sconce.db"));
                    Ok(Some("sk-first".to_owned()))
                })
            }),
            lend_key: Arc::new(|_| panic!("no golden prompts are asked")),
            router_variables: Vec::new(),
            worker_variables: Vec::new(),
        };
        let program = self.directory.path().join("sconce");
        up.run_with(self.site.settings.clone(), program, hooks, out).await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// Sends this process a signal as soon as something was printed.
struct SignalWhenPrinted(Vec<u8>);

impl std::io::Write for SignalWhenPrinted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        kill_process(getpid(), Signal::TERM)?;
        Ok(())
    }
}

#[tokio::test]
async fn a_start_prints_what_to_paste_and_a_signal_stops_router_then_worker() {
    let stage = Stage::new("").await;
    let model = stage.directory.path().join("tiny.gguf");
    let up = Cli::try_parse_from([
        "up",
        model.to_str().unwrap(),
        "--port=0",
        "--threads=2",
        "--drain-timeout=7",
        "--",
        "--max-num-seqs=4",
    ]);
    let hooks = Hooks {
        started: Instant::now(),
        ensure_first_key: Box::new(|_| Box::pin(async { Ok(Some("sk-first".to_owned())) })),
        lend_key: Arc::new(|_| panic!("no golden prompts are asked")),
        router_variables: Vec::new(),
        worker_variables: Vec::new(),
    };
    let mut out = SignalWhenPrinted(Vec::new());

    let program = stage.directory.path().join("sconce");
    up.unwrap().up.run_with(stage.site.settings.clone(), program, hooks, &mut out).await.unwrap();

    let printed = String::from_utf8(out.0).unwrap();
    assert!(printed.contains("sk-first"), "{printed}");
    assert!(printed.lines().last().unwrap().starts_with("ready in "), "{printed}");
    assert!(stage.questions.load(Ordering::Relaxed) >= 3);
    let log = stage.log();
    let worker = log.lines().find(|line| line.starts_with("worker --model")).unwrap();
    assert!(worker.contains("tiny.gguf --name tiny --version local-"), "{worker}");
    assert!(worker.ends_with("--threads 2 --exit-with-stdin --max-num-seqs=4"), "{worker}");
    let router = log.lines().find(|line| line.starts_with("router --listen")).unwrap();
    assert!(router.contains("--listen 127.0.0.1:0 --launcher unix:/"), "{router}");
    assert!(router.ends_with("--drain-timeout 7 --exit-with-stdin"), "{router}");
    assert!(log.ends_with("router stopped\nworker stopped\n"), "{log}");
    let run = stage.site.settings.home.join("run");
    assert_eq!(list(&run), ["servers"]);
    // What is left of its record is the lock that it held.
    let left = list(&run.join("servers"));
    assert!(left.iter().all(|file| file.ends_with(".lock")), "{left:?}");
}

#[tokio::test]
async fn a_worker_that_fails_at_its_start_ends_the_command_with_its_status() {
    let stage = Stage::new("").await;
    stage.fail_workers();

    let error = stage.up(&["--no-auth"], &mut Vec::new()).await.unwrap_err();

    assert!(error.to_string().contains("the worker ended before it was ready"), "{error}");
    assert!(error.to_string().contains("exit status: 9"), "{error}");
}

/// What the worker says of a model of so many bytes, on a machine with 1 GiB.
fn described(weight_bytes: u64) -> String {
    format!(
        r#"{{"task":"generate","device":"cpu","isa":"avx2","num_threads":2,"max_num_seqs":64,
        "max_model_len":null,"available_bytes":1073741824,"weight_bytes":{weight_bytes},
        "workspace_bytes":0,"max_positions":8192,"kv_cache":{{"dtype":"f16","block_size":16,
        "block_bytes":65536,"num_blocks":8192}}}}"#
    )
    .replace('\n', " ")
}

#[tokio::test]
async fn a_model_that_does_not_fit_is_refused_before_anything_starts() {
    let stage = Stage::new("").await;
    std::fs::write(stage.directory.path().join("described"), described(900 << 20)).unwrap();

    let error = stage.up(&["--no-auth"], &mut Vec::new()).await.unwrap_err();

    assert_eq!(sconce_launcher::exit::status(&error), 7);
    assert!(format!("{error:#}").contains("900.00 MiB of weights"), "{error:#}");
    assert_eq!(stage.log(), "");
}

#[tokio::test]
async fn what_was_chosen_is_what_the_worker_is_told() {
    let stage = Stage::new("").await;
    stage.fail_workers();
    std::fs::write(stage.directory.path().join("described"), described(100 << 20)).unwrap();

    let args = ["--no-auth", "--context=1024", "--concurrency=4", "--", "--max-queue=3"];
    stage.up(&args, &mut Vec::new()).await.unwrap_err();

    let log = stage.log();
    let worker = log.lines().find(|line| line.starts_with("worker --model")).unwrap();
    let flags = "--max-queue=3 --kv-cache-bytes 16777216 --max-model-len 1024 --max-num-seqs 4";
    assert!(worker.ends_with(flags), "{worker}");
}

#[tokio::test]
async fn one_thing_is_not_said_twice() {
    let stage = Stage::new("").await;

    let args = ["--no-auth", "--context=1024", "--", "--max-model-len=2048"];
    let error = stage.up(&args, &mut Vec::new()).await.unwrap_err();

    assert_eq!(sconce_launcher::exit::status(&error), 2);
    assert!(error.to_string().contains("--max-model-len"), "{error}");
}

/// Plays the launcher of the next test, in a process of its own that can be killed.
#[tokio::test]
#[ignore = "started by another test"]
async fn serves_until_killed() {
    let stage = Stage::new("").await;
    let announce = std::env::var_os("SCONCE_TEST_ANNOUNCE").unwrap();
    std::fs::write(announce, stage.directory.path().as_os_str().as_encoded_bytes()).unwrap();

    stage.up(&["--port=0"], &mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn children_notice_a_launcher_that_was_killed() {
    let directory = tempfile::tempdir().unwrap();
    let announce = directory.path().join("announce");
    let mut launcher = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["up::serves_until_killed", "--exact", "--ignored"])
        .env("SCONCE_TEST_ANNOUNCE", &announce)
        // Nobody else cleans up behind a process that was killed.
        .env("TMPDIR", directory.path())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let log = || {
        let stage = std::fs::read_to_string(&announce).unwrap_or_default();
        std::fs::read_to_string(PathBuf::from(stage).join("log")).unwrap_or_default()
    };
    until(|| log().contains("worker --model") && log().contains("router --listen")).await;

    launcher.kill().await.unwrap();

    let lost = ["worker lost its launcher", "router lost its launcher"];
    until(|| lost.iter().all(|line| log().contains(line))).await;
}

/// Another process's files tell nobody when they change.
async fn until(condition: impl Fn() -> bool) {
    let mut every = tokio::time::interval(Duration::from_millis(10));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it never happened");
        every.tick().await;
    }
}

#[tokio::test]
async fn a_name_that_no_url_can_carry_is_refused() {
    let stage = Stage::new("").await;

    let error = stage.up(&["--served-model-name", "a b'"], &mut Vec::new()).await.unwrap_err();

    assert!(error.to_string().contains("letters, digits"), "{error}");
}
