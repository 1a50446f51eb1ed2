"""Tables of figures, as text for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Table", "spread"]


@dataclass(slots=True)
class Table:
    """Rows of texts under heads; the first column is a label, the others are figures.

    Args:
        title: Title above the table.
        heads: Heads of the columns after the first.
        rows: A label and its figures each; or a label, a dash and the reason why there are none.
        notes: Lines below the table.
    """

    title: str
    heads: Sequence[str]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, label: str, *figures: str) -> None:
        """Add a row."""
        self.rows.append((label, *figures))

    def miss(self, label: str, reason: str) -> None:
        """Add a row without figures, with the reason."""
        self.rows.append((label, "-", reason))

    def text(self) -> Iterator[str]:
        """The table as lines for a terminal."""
        yield self.title
        full = [row for row in self.rows if not self._is_missing(row)]
        label = max((len(row[0]) for row in self.rows), default=0)
        widths = [
            max(len(head), *(len(row[place]) for row in full), 1) if full else len(head)
            for place, head in enumerate(self.heads, start=1)
        ]
        yield self._line("", self.heads, label, widths)
        for row in self.rows:
            if self._is_missing(row):
                yield f"  {row[0]:{label}}  {'-':>{widths[0]}}  {row[2]}"
            else:
                yield self._line(row[0], row[1:], label, widths)
        yield from self.notes

    def _line(self, first: str, cells: Sequence[str], label: int, widths: Sequence[int]) -> str:
        figures = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        return f"  {first:{label}}  {figures}".rstrip()

    def markdown(self) -> Iterator[str]:
        """The table as lines of Markdown, without the title."""
        yield f"| | {' | '.join(self.heads)} |"
        yield f"|---|{'---:|' * len(self.heads)}"
        for row in self.rows:
            if self._is_missing(row):
                cells = [row[0], f"– ({_quoted(row[2])})", *["–"] * (len(self.heads) - 1)]
            else:
                cells = ["–" if cell == "-" else cell for cell in row]
            yield f"| {' | '.join(cells)} |"
        if self.notes:
            yield ""
            yield from self.notes

    def _is_missing(self, row: tuple[str, ...]) -> bool:
        return len(row) == 3 and row[1] == "-" and len(self.heads) != 2


def spread(samples: Sequence[float], form: str, unit: str = "") -> list[str]:
    """Median, lowest and highest of samples as three cells; dashes without samples.

    Args:
        samples: The samples.
        form: Format of a number.
        unit: Text after each number.
    """
    if not samples:
        return ["-"] * 3
    return [f"{value:{form}}{unit}" for value in (median(samples), min(samples), max(samples))]


def _quoted(reason: str) -> str:
    return reason.replace("|", "\\|")
