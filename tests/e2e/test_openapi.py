"""What /openapi.json says is what the server does: schemathesis sends what the document allows, and
what it doesn't, and compares the answers with it."""

import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
SCHEMATHESIS = os.environ.get("SCONCE_SCHEMATHESIS")


pytestmark = pytest.mark.skipif(
    SCHEMATHESIS is None, reason="SCONCE_SCHEMATHESIS is not set: tests/run.sh sets it"
)


def check(server, directory, *options):
    environment = dict(
        os.environ, SCONCE_MODEL=server.model, SCHEMATHESIS_HOOKS="schemathesis_hooks",
        PYTHONPATH=str(HERE),
    )

    run = subprocess.run(
        [
            SCHEMATHESIS, "--config-file", str(HERE / "schemathesis.toml"),
            "run", server.url + "/openapi.json", "--no-color",
            "--header", f"Authorization: Bearer {server.key}", *options,
        ],
        cwd=directory, env=environment, capture_output=True, text=True, timeout=600,
    )

    print(run.stdout[-6000:])
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-2000:]


def test_every_answer_is_one_that_the_document_has(server, tmp_path):
    check(server, tmp_path)


def test_so_is_every_answer_of_a_model_that_embeds(start, tmp_path):
    from conftest import path_of_embedder

    check(start(model=str(path_of_embedder())), tmp_path, "--include-tag", "Embeddings")
