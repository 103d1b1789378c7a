"""A PostgreSQL server of one's own: its files in a temporary directory, its only door a socket there."""

import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
import time

# Who runs the server where the tests are run by root, which PostgreSQL refuses to be.
NOBODY = 65534
# It starts in a second where the machine has nothing else to do.
PATIENCE = 120


def programs():
    """Where the newest PostgreSQL's programs are; nothing where none is installed."""
    installed = pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(installed, key=lambda it: int(it.parts[4]), default=None)
    return newest and newest.parent


@contextlib.contextmanager
def running():
    """The URL of its one database, until the block ends."""
    found = programs()
    assert found, "PostgreSQL is not installed"
    with tempfile.TemporaryDirectory(prefix="sconce-postgres-") as directory:
        mine = {}
        if os.getuid() == 0:
            os.chown(directory, NOBODY, NOBODY)
            mine = dict(user=NOBODY, group=NOBODY, extra_groups=[])
        data = f"{directory}/data"
        subprocess.run(
            [found / "initdb", "--auth=trust", "--username=sconce", "--no-sync", "--encoding=UTF8",
             "--locale=C", "-D", data],
            check=True, capture_output=True, cwd=directory, **mine)
        server = subprocess.Popen(
            [found / "postgres", "-D", data, "-k", directory, "-c", "listen_addresses=", "-c", "fsync=off"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory, **mine)
        try:
            deadline = time.monotonic() + PATIENCE
            while subprocess.run([found / "pg_isready", "-q", "-h", directory]).returncode:
                assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.1)
            yield f"postgres://sconce@localhost/postgres?host={directory}"
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()
