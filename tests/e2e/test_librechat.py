"""What docs/librechat.md has for LibreChat, by LibreChat's own schema of it."""

import npm

pytestmark = npm.needs_modules


def test_the_configuration_is_librechats():
    npm.run("librechat-config", DOCUMENT=str(npm.HERE.parent.parent / "docs" / "librechat.md"))
