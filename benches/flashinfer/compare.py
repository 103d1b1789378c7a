#!/usr/bin/env python3
"""Sconce's attention beside FlashInfer's, of the tables that both programs printed.

    python3 benches/flashinfer/compare.py FLASHINFER.log SCONCE.log...

Each row of ours is divided by the fastest of FlashInfer's ways for the same work: 1.0 is as fast, 2.0 takes
twice as long.
"""

import sys
from pathlib import Path


def rows(log: str) -> list[tuple[str, str, float]]:
    """Work, how, and microseconds of the rows that have a time."""
    found = []
    for line in Path(log).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4:
            try:
                found.append((cells[0], cells[1], float(cells[2])))
            except ValueError:
                continue
    return found


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    theirs, *ours = sys.argv[1:]
    best: dict[str, tuple[float, str]] = {}
    for work, how, us in rows(theirs):
        best[work] = min(best.get(work, (us, how)), (us, how))
    print("| work | Sconce | us | FlashInfer's fastest | us | times FlashInfer's |")
    print("| --- | --- | --- | --- | --- | --- |")
    compared = 0
    for log in ours:
        suffix = ", early launch" if "early launch" in Path(log).read_text().split("\n", 1)[0] else ""
        for work, how, us in rows(log):
            if work not in best:
                print(f"| {work} | {how}{suffix} | {us:.2f} | none | | |")
                continue
            their_us, their_how = best[work]
            compared += 1
            print(f"| {work} | {how}{suffix} | {us:.2f} | {their_how} | {their_us:.2f} | {us / their_us:.2f} |")
    if not compared:
        print("error: nothing to compare", file=sys.stderr)
    return 0 if compared else 1


if __name__ == "__main__":
    sys.exit(main())
