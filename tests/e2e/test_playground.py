"""The playground: its parts in Node, and the page in headless Chromium where there is one."""

import os
import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
MODULES = os.environ.get("SCONCE_NODE_MODULES")
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)

pytestmark = pytest.mark.skipif(
    MODULES is None, reason="SCONCE_NODE_MODULES is not set: tests/run.sh sets it"
)


def run(name, **environment):
    work = pathlib.Path(MODULES).parent
    script = work / f"{name}.test.mjs"
    shutil.copy(HERE / "node" / f"{name}.test.mjs", script)
    tests = subprocess.run(
        ["node", "--test", "--test-reporter=spec", str(script)],
        cwd=work, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900,
    )
    print(tests.stdout[-6000:])
    assert tests.returncode == 0, tests.stdout[-6000:] + tests.stderr[-2000:]


def test_the_parts():
    run("playground-parts", SCONCE_PLAYGROUND=str(ROOT / "router" / "playground"))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(server):
    pictures = ROOT / "target" / "playground"
    pictures.mkdir(parents=True, exist_ok=True)
    run(
        "playground",
        SCONCE_URL=server.url,
        SCONCE_KEY=server.key,
        SCONCE_CHROMIUM=CHROMIUM,
        SCONCE_PICTURES=str(pictures),
    )
