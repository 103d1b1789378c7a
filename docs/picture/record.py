"""Records a session of the real binary on a terminal and draws it as an animated SVG, without scripts.

    pip install pyte
    python docs/picture/record.py --sconce target/release/sconce --out docs/picture/terminal.svg

Needs `smollm2:135m` in the store (`sconce pull smollm2:135m`) and port 8000. What is shown is what the
programs printed, when they printed it; only pauses longer than `PAUSE` are shortened, and the commands are
typed by this script.
"""

import argparse
import fcntl
import html
import os
import pty
import select
import signal
import struct
import subprocess
import tempfile
import termios
import time

import pyte

COLUMNS, ROWS = 92, 24
# Seconds.
KEY, PAUSE, READ, END, FRAME = 0.035, 0.7, 1.4, 4.0, 0.08
SESSION = [
    "sconce up -d smollm2:135m --no-auth",
    'sconce run smollm2:135m "What is the capital of France?" --temperature 0',
    "cat calm.toml",
    "sconce create smollm2 -f calm.toml",
    "sconce promote smollm2@2 --name smollm2:135m --reason 'calmer answers'",
    "sconce status",
    "sconce rollback smollm2:135m",
    "sconce history",
    "sconce stop smollm2:135m",
]
FILES = {"calm.toml": 'base = "smollm2@1"\n\n[sampling]\ntemperature = 0.1\n'}
PROMPT, AFTER_PROMPT = r"\[\e[1;32m\]$\[\e[0m\] ", b"\x1b[0m "
# A palette that is read on white pages and on black ones.
BACK, FRONT, FRAME_COLOR, DIM = "#16181d", "#d8dee9", "#2b2f38", "#7b8494"
COLORS = {
    "red": "#e06c75", "green": "#98c379", "brown": "#e5c07b", "yellow": "#e5c07b", "blue": "#61afef",
    "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#d8dee9", "black": "#5c6370",
}
CELL_WIDTH, LINE, MARGIN, BAR = 8.4, 19, 14, 30


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sconce", default="target/release/sconce")
    parser.add_argument("--out", default="docs/picture/terminal.svg")
    return parser.parse_args()


class Recorder:
    """A shell on a terminal of its own, and the screens it showed with their times."""

    def __init__(self, folder, environment):
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.ByteStream(self.screen)
        self.shown = b""
        self.clock, self.frames = 0.0, []
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-i"], stdin=slave, stdout=slave, stderr=slave,
            env=environment, cwd=folder, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.last = time.monotonic()
        self.wait()

    def read(self, patience):
        """What is printed within so many seconds; False when nothing is."""
        if not select.select([self.master], [], [], patience)[0]:
            return False
        data = os.read(self.master, 65536)
        now = time.monotonic()
        self.clock += min(now - self.last, PAUSE)
        self.last = now
        self.shown += data
        self.stream.feed(data)
        self.keep()
        return True

    def keep(self):
        frame = self.clock, [row(self.screen.buffer[y]) for y in range(ROWS)]
        # Frames that nobody could tell apart are one.
        if self.frames and self.clock - self.frames[-1][0] < FRAME and len(self.frames) > 1:
            frame = self.frames.pop()[0], frame[1]
        self.frames.append(frame)

    def wait(self):
        """Until the shell asks for the next command."""
        while not self.shown.endswith(AFTER_PROMPT) or self.read(0.1):
            if not self.read(60):
                raise SystemExit(f"nothing came after {self.shown[-300:]!r}")

    def type(self, command):
        self.shown = b""
        for key in command:
            os.write(self.master, key.encode())
            time.sleep(KEY)
            self.read(1)
        os.write(self.master, b"\r")
        self.shown = b""
        self.wait()
        self.clock += READ
        self.last = time.monotonic()


def row(cells):
    """A row as runs of equal looks: (column, text, color, bold)."""
    runs = []
    for x in range(COLUMNS):
        cell = cells[x]
        color = COLORS.get(cell.fg.removeprefix("bright"), FRONT if cell.fg == "default" else f"#{cell.fg}")
        if runs and runs[-1][2:] == (color, cell.bold) and runs[-1][0] + len(runs[-1][1]) == x:
            runs[-1] = (runs[-1][0], runs[-1][1] + cell.data, color, cell.bold)
        else:
            runs.append((x, cell.data, color, cell.bold))
    return tuple(run for run in runs if run[1].strip())


def spans(frames, total):
    """Each look of each row, with the times between which it is shown."""
    for y in range(ROWS):
        begin, look = 0.0, frames[0][1][y]
        for at, rows in frames[1:]:
            if rows[y] != look:
                yield y, look, begin, at
                begin, look = at, rows[y]
        yield y, look, begin, total


def draw_run(base, x, text, color, bold):
    text, weight = text.rstrip(), ' font-weight="bold"' if bold else ""
    place = f'x="{MARGIN + x * CELL_WIDTH:.1f}" y="{base}" textLength="{len(text) * CELL_WIDTH:.1f}"'
    return f'<text {place} fill="{color}"{weight} xml:space="preserve">{html.escape(text)}</text>'


def draw(frames):
    total = frames[-1][0] + END
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, ROWS * LINE + 2 * MARGIN + BAR
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="14">',
        "<title>A session of sconce in a terminal</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{BACK}" stroke="{FRAME_COLOR}"/>',
        *(f'<circle cx="{20 + 18 * i}" cy="17" r="5.5" fill="{color}"/>'
          for i, color in enumerate(("#e06c75", "#e5c07b", "#98c379"))),
        f'<text x="{width / 2:.0f}" y="21" fill="{DIM}" font-size="12" text-anchor="middle">'
        "recorded from the real terminal; pauses shortened</text>",
    ]
    for y, look, begin, end in spans(frames, total):
        if not look:
            continue
        base = BAR + MARGIN + y * LINE + 14
        texts = "".join(draw_run(base, *run) for run in look)
        if begin == 0.0 and end == total:
            out.append(texts)
            continue
        times = [(0, "hidden"), (begin / total, "visible"), (end / total, "hidden")]
        times = times[1:] if begin == 0.0 else times
        times = times[:-1] if end == total else times
        values, keys = ";".join(value for _, value in times), ";".join(f"{at:.5f}" for at, _ in times)
        # Without animation, the end is shown.
        at_rest = "visible" if end == total else "hidden"
        out.append(
            f'<g visibility="{at_rest}">{texts}<animate attributeName="visibility" values="{values}" '
            f'keyTimes="{keys}" calcMode="discrete" dur="{total:.2f}s" repeatCount="indefinite"/></g>'
        )
    return "\n".join([*out, "</svg>\n"])


def main():
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="sconce-") as folder:
        os.makedirs(f"{folder}/bin")
        for name, text in FILES.items():
            with open(f"{folder}/{name}", "w") as file:
                file.write(text)
        os.symlink(os.path.abspath(options.sconce), f"{folder}/bin/sconce")
        environment = {
            "PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": os.environ["HOME"], "TERM": "xterm-256color",
            "XDG_RUNTIME_DIR": folder, "PS1": PROMPT, "LANG": "C.UTF-8",
        }
        if "SCONCE_HOME" in os.environ:
            environment["SCONCE_HOME"] = os.environ["SCONCE_HOME"]
        recorder = Recorder(folder, environment)
        for command in SESSION:
            recorder.type(command)
        os.kill(recorder.process.pid, signal.SIGHUP)
        recorder.process.wait()
    picture = draw(recorder.frames)
    with open(options.out, "w") as file:
        file.write(picture)
    print(f"{options.out}: {len(picture) / 1000:.0f} kB, {recorder.frames[-1][0] + END:.0f} s")


if __name__ == "__main__":
    main()
