"""Runs the npm packages' tests against a server of the real binary."""

import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
MODULES = os.environ.get("SCONCE_NODE_MODULES")


@pytest.mark.skipif(MODULES is None, reason="SCONCE_NODE_MODULES is not set: tests/run.sh sets it")
@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("openai", "openai"),
        # The next major version, installed beside it.
        ("openai", "openai7"),
        ("batch", "openai"),
        ("batch", "openai7"),
        ("anthropic", "@anthropic-ai/sdk"),
        ("ai-sdk", "ai"),
    ],
)
def test_the_npm_package(server, name, package):
    work = pathlib.Path(MODULES).parent
    script = work / f"{name}-{package.replace('/', '-')}.test.mjs"
    text = (HERE / "node" / f"{name}.test.mjs").read_text()
    script.write_text(text.replace('from "openai"', f'from "{package}"'))
    environment = dict(
        os.environ, SCONCE_URL=server.url, SCONCE_KEY=server.key, SCONCE_MODEL=server.model
    )

    run = subprocess.run(
        ["node", "--test", "--test-reporter=spec", str(script)],
        cwd=work, env=environment, capture_output=True, text=True, timeout=600,
    )

    print(run.stdout[-6000:])
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
