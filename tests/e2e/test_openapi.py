"""What /openapi.json says is what the server does: schemathesis sends what the document allows, and
what it doesn't, and compares the answers with it."""

import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
SCHEMATHESIS = os.environ.get("SCONCE_SCHEMATHESIS")


@pytest.mark.skipif(SCHEMATHESIS is None, reason="SCONCE_SCHEMATHESIS is not set: tests/run.sh sets it")
def test_every_answer_is_one_that_the_document_has(server, tmp_path):
    environment = dict(
        os.environ, SCONCE_MODEL=server.model, SCHEMATHESIS_HOOKS="schemathesis_hooks",
        PYTHONPATH=str(HERE),
    )

    run = subprocess.run(
        [
            SCHEMATHESIS, "run", server.url + "/openapi.json",
            "--header", f"Authorization: Bearer {server.key}",
            # A schema can't say all that makes a request a valid one; and where it says that there
            # is an object, an array of its members is taken too.
            "--exclude-checks", "positive_data_acceptance,negative_data_rejection",
            "--phases", "examples,coverage,fuzzing", "--continue-on-failure",
            "--max-examples", "10", "--seed", "1", "--generation-database", "none",
            "--request-timeout", "60", "--no-color",
        ],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
    )

    print(run.stdout[-6000:])
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-2000:]
