"""Runs the tests in node/, beside the packages that they need."""

import os
import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
MODULES = os.environ.get("SCONCE_NODE_MODULES")
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)

needs_modules = pytest.mark.skipif(
    MODULES is None, reason="SCONCE_NODE_MODULES is not set: tests/run.sh sets it"
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def directory():
    """Where Node finds the packages."""
    return pathlib.Path(MODULES).parent


def run(name, **environment):
    script = directory() / f"{name}.test.mjs"
    shutil.copy(HERE / "node" / script.name, script)
    tests = subprocess.run(
        ["node", "--test", "--test-reporter=spec", str(script)],
        cwd=script.parent, capture_output=True, text=True, timeout=900,
        env={**os.environ, "SCONCE_CHROMIUM": CHROMIUM or "", **environment},
    )
    print(tests.stdout[-6000:])
    assert tests.returncode == 0, tests.stdout[-6000:] + tests.stderr[-2000:]
