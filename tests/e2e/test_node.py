"""Runs the openai npm package's tests against a server of the real binary."""

import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
MODULES = os.environ.get("SCONCE_NODE_MODULES")


@pytest.mark.skipif(MODULES is None, reason="SCONCE_NODE_MODULES is not set: tests/run.sh sets it")
def test_the_npm_package(server):
    work = pathlib.Path(MODULES).parent
    script = work / "openai.test.mjs"
    script.write_text((HERE / "node" / "openai.test.mjs").read_text())
    environment = dict(
        os.environ, SCONCE_URL=server.url, SCONCE_KEY=server.key, SCONCE_MODEL=server.model
    )

    run = subprocess.run(
        ["node", "--test", "--test-reporter=spec", str(script)],
        cwd=work, env=environment, capture_output=True, text=True, timeout=600,
    )

    print(run.stdout[-6000:])
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
