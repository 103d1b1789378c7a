"""The playground: its parts in Node, and the page in headless Chromium where there is one."""

import npm

ROOT = npm.HERE.parent.parent

pytestmark = npm.needs_modules


def test_the_parts():
    npm.run("playground-parts", SCONCE_PLAYGROUND=str(ROOT / "router" / "playground"))


@npm.needs_chromium
def test_the_page_in_a_browser(server):
    pictures = ROOT / "target" / "playground"
    pictures.mkdir(parents=True, exist_ok=True)
    npm.run(
        "playground",
        SCONCE_URL=server.url,
        SCONCE_KEY=server.key,
        SCONCE_PICTURES=str(pictures),
    )
