"""Tables in Markdown, and their place in a file."""

import pathlib
import statistics
from dataclasses import dataclass, field

BEGIN, END = "<!-- {} begin -->", "<!-- {} end -->"
SECTION = "beside llama.cpp"


@dataclass
class Row:
    """A quantity: each contender's values, round by round."""

    title: str
    smaller_is_better: bool = False
    # How often a figure is measured at most, where it is not as often as any other.
    attempts: int | None = None
    values: dict = field(default_factory=dict)
    # Of each round, whether others took more of the machine than they may.
    disturbed: list = field(default_factory=list)
    # Of each round, the greatest value that the machine could have given; None where unknown.
    bounds: list = field(default_factory=list)

    def add(self, values, disturbances, bound=None):
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)
        self.bounds.append(bound)
        self.disturbed.append(any(disturbance.is_large for disturbance in disturbances))

    def kept(self, name):
        """The values of the undisturbed rounds, or of all if there is none."""
        return self.undisturbed(self.values[name])

    def undisturbed(self, values):
        if all(self.disturbed):
            return values
        return [value for value, bad in zip(values, self.disturbed) if not bad]

    def median(self, name):
        return statistics.median(self.kept(name))

    def times_better(self, ours, theirs):
        return theirs / ours if self.smaller_is_better else ours / theirs

    def cells(self, names):
        """The row's cells; the first name is ours."""
        ours, *peers = names
        shares = [value / bound for value, bound
                  in zip(self.kept(ours), self.undisturbed(self.bounds)) if bound]
        share = f"{statistics.median(shares):.0%}" if shares else ""
        cells = [self.title, number(self.median(ours)), share]
        for peer in peers:
            ratios = [self.times_better(*pair)
                      for pair in zip(self.kept(ours), self.kept(peer))]
            ratio = self.times_better(self.median(ours), self.median(peer))
            # A peer that lost its processors says nothing about its speed.
            shown = [f"**{ratio:.2f}**", f"{min(ratios):.2f} – {max(ratios):.2f}"]
            cells += [number(self.median(peer)), *(["", ""] if all(self.disturbed) else shown)]
        return [*cells, f"{sum(self.disturbed)} of {len(self.disturbed)}"]


def number(value):
    """Three figures or more, without exponents."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows, names):
    ours, *peers = names
    head = ["", ours, "of the bound"]
    for peer in peers:
        head += [peer, "times better", "by round"]
    head.append("disturbed rounds")
    lines = [head, ["---"] * len(head), *[row.cells(names) for row in rows if row.values]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(path, label, text):
    """Puts the text where the file has this label's, or at the end of the section; the rest of
    the file stays."""
    path = pathlib.Path(path)
    before = path.read_text()
    begin, end = BEGIN.format(label), END.format(label)
    part = f"{begin}\n{text.strip()}\n{end}"
    if begin in before:
        head, rest = before.split(begin, 1)
        _, tail = rest.split(end, 1)
        path.write_text(head + part + tail)
        return
    section_end = END.format(SECTION)
    if section_end not in before:
        raise ValueError(f"{path} lacks the line {section_end}")
    head, tail = before.split(section_end, 1)
    path.write_text(f"{head.rstrip()}\n\n{part}\n\n{section_end}{tail}")
