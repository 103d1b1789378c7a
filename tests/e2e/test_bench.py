"""`sconce bench` against the real server, as an operator or a CI job runs it."""

import json
import os
import pathlib
import subprocess
import sys

import npm
from conftest import BINARY, PATIENCE


def bench(server, *words, status=0):
    environment = dict(os.environ, SCONCE_URL=server.url, SCONCE_API_KEY=server.key)
    done = subprocess.run(
        [BINARY, "bench", *words], capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_a_run_counts_as_the_server_does(server, tmp_path):
    before = server.metric("sconce_generation_tokens_total") or 0
    paths = [str(tmp_path / name) for name in ("r.json", "r.csv", "r.html")]
    done = bench(
        server, "--concurrency", "4", "-n", "12", "--input-tokens", "uniform:8:32",
        "--output-tokens", "8", "--ignore-eos", "--slo", "ttft=1h,tpot=1h",
        "--output-json", paths[0], "--output-csv", paths[1], "--html", paths[2],
        "--assert", "errors<1", "--assert", "goodput>0",
    )

    result = json.load(open(paths[0]))
    assert "12 answered, 0 failed" in done.stdout and "TTFT" in done.stdout
    assert result["completed"] == 12 and result["total_output_tokens"] == 12 * 8
    assert result["total_input_tokens"] > 12 * 8 and result["total_cached_tokens"] is not None
    assert server.metric("sconce_generation_tokens_total") - before == 12 * 8
    assert result["metrics"]["itl"]["count"] > 0 and result["mean_ttft_ms"] > 0
    assert result["request_goodput"] == result["request_throughput"]
    assert len(open(paths[1]).readlines()) == 13
    page = open(paths[2]).read()
    assert page.count("<svg") >= 4 and "http" not in page

    same = bench(server, "compare", paths[0], paths[0])
    assert "TTFT mean" in same.stdout and "worse" not in same.stdout


def test_mixes_and_conversations_are_answered(server, tmp_path):
    path = str(tmp_path / "r.json")
    bench(
        server, "-n", "6", "--rate", "20", "--turns", "2", "--shared-prefixes", "1",
        "--prefix-tokens", "64", "--input-tokens", "8", "--output-tokens", "16", "--output-json", path,
    )
    result = json.load(open(path))
    assert result["completed"] == 12 and result["total_cached_tokens"] > 0
    assert "lateness" in result["metrics"]

    bench(
        server, "-n", "6", "--concurrency", "3", "--tools-share", "0.5", "--schema-share", "0.5",
        "--input-tokens", "8", "--output-tokens", "64", "--output-json", path,
    )
    assert json.load(open(path))["failed"] == 0


def test_vectors_are_asked_for(pair, tmp_path):
    path = str(tmp_path / "r.json")
    bench(
        pair, "--endpoint", "embeddings", "--model", "minilm", "--texts", "3", "--input-tokens", "16",
        "-n", "4", "--concurrency", "2", "--output-json", path,
    )
    result = json.load(open(path))
    assert (result["completed"], result["total_input_sequences"], result["total_output_tokens"]) == (4, 12, 0)
    assert result["total_input_tokens"] > 12 * 16


@npm.needs_modules
@npm.needs_chromium
def test_the_page_of_a_sweep_stands_by_itself(server, tmp_path):
    report = tmp_path / "report.html"
    bench(
        server, "--sweep", "concurrency=1,2,4", "-n", "8", "--input-tokens", "16", "--output-tokens", "12",
        "--ignore-eos", "--slo", "ttft=1h", "--html", str(report),
    )
    pictures = npm.HERE.parent.parent / "target" / "bench"
    pictures.mkdir(parents=True, exist_ok=True)
    npm.run("bench-report", REPORT=str(report), PICTURES=str(pictures))


def test_a_condition_that_does_not_hold_fails_the_command(server):
    words = ["-n", "2", "--input-tokens", "8", "--output-tokens", "4"]
    failed = bench(server, *words, "--assert", "ttft.p99<1us", status=1)
    assert "FAILS  ttft.p99<1us" in failed.stdout and "1 of 1 conditions" in failed.stderr

    nobody = bench(server, *words, "--model", "nobody", status=1)
    assert "2 http_404" in nobody.stderr


def test_a_trace_is_replayed(server, tmp_path):
    trace = tmp_path / "trace.jsonl"
    lines = [{"timestamp": i / 10, "prompt": f"Say {i}.", "max_tokens": 4} for i in range(5)]
    trace.write_text("\n".join(json.dumps(line) for line in lines))
    told = bench(server, "--trace", str(trace), "--output-json", "-")
    result = json.loads(told.stdout)
    assert result["completed"] == 5 and result["start_times"][-1] >= 0.4
    assert "5 answered" in told.stderr


def test_counts_are_compared_with_a_tokenizers(start, tmp_path):
    tiny = tmp_path / "tiny"
    script = pathlib.Path(__file__).parents[1] / "tiny_model.py"
    subprocess.run([sys.executable, script, tiny], check=True, timeout=PATIENCE)
    server = start(model=str(tiny))
    path = str(tmp_path / "r.json")
    words = ["-n", "4", "--endpoint", "completions", "--output-tokens", "8", "--output-json", path]

    done = bench(server, *words, "--tokenizer", str(tiny))
    check = json.load(open(path))["token_check"]
    assert check["input"]["requests"] == 4
    assert check["input"]["usage"] == check["input"]["tokenizer"] > 4 * 128
    assert "count of input" not in done.stdout

    # Another vocabulary: each byte is a token.
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    other = bench(server, *words, "--tokenizer", str(tmp_path / "tokenizer.json"))
    assert "count of input tokens differs" in other.stdout

    refused = bench(server, *words, "--tokenizer", str(tmp_path / "nothing"), status=1)
    assert "nothing is no tokenizer.json" in refused.stderr
