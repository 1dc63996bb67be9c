"""A result as a table: on the screen, in JSON, and on a page of the book."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from irlib.zoo import cast

RESULTS = Path(__file__).parents[1] / "results" / "bench"  # what `python -m irlib.bench … --out` wrote, on one machine or several


@dataclass(frozen=True)
class Table:
    """Rows of numbers and words under headings, and what they mean. Under a heading that ends in % are fractions, shown as percentages."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str

    def stored(self) -> dict[str, Any]:
        """As it is written to JSON."""
        return asdict(self)

    def column(self, heading: str) -> list[Any]:
        return [row[self.headings.index(heading)] for row in self.rows]

    def _cells(self) -> Iterable[tuple[str, ...]]:
        return [tuple(_shown(cell, heading) for cell, heading in zip(row, self.headings, strict=True)) for row in self.rows]

    def plain(self) -> str:
        return "\n".join([self.title, cast.plain(tuple(self.headings), self._cells()), self.note])

    def html(self) -> str:
        return cast.html(tuple(self.headings), self._cells())


def published(section: str) -> Iterator[tuple[Table, str]]:
    """Each stored result of a section of the benchmark, and the machine, date and versions that it is of."""
    for path in sorted(RESULTS.glob("*.json")):
        facts = json.loads(path.read_text())
        if section in facts["tables"]:
            versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
            yield Table(**facts["tables"][section]), f"{facts['device']}, {facts['threads']} threads; {facts['date'][:10]}; {versions}"


def _shown(cell: Any, heading: str) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{100 * cell:.3g}" if heading.endswith("%") else f"{cell:.3g}"
    return str(cell)
