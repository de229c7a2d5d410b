"""Tables of results: terminal, Markdown, LaTeX (booktabs), CSV. Every number carries its coverage and its marks."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from omgbench.errors import UserError
from omgbench.printable import SENTENCE_LIMIT, printable
from omgbench.reports.published import PublishedNumber, published_numbers
from omgbench.reports.seeds import joined, mean_and_half_width, seed_of
from omgbench.store import MetricRecord, ResultRecord

Format = Literal["text", "markdown", "latex", "csv"]
Published = Literal["none", "main", "all"]
NOT_COMPUTED = "not computed"


@dataclass(frozen=True, slots=True)
class Column:
    """One number of one split: the head of a column."""

    task: str
    title: str
    subset: str
    split: str
    metric: str
    factor: float

    @property
    def head(self) -> str:
        """`RefCOCO val cIoU`."""
        subset = f" ({self.subset})" if self.subset else ""
        return f"{self.title}{subset} {self.split} {self.metric}"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What a number must agree in to stand in this column."""
        return (self.task, self.subset, self.split, self.metric)


@dataclass(slots=True)
class Entry:
    """One number as shown, and the numbers of the notes that belong to it."""

    text: str
    notes: list[int] = field(default_factory=list)

    def shown(self, escape: Callable[[str], str]) -> str:
        """`text [1,2]`: the text escaped, its marks as they are."""
        return escape(self.text) + (f" [{','.join(map(str, self.notes))}]" if self.notes else "")


@dataclass(slots=True)
class Row:
    """One model: its entries by column key, and by task how many samples it answered of how many."""

    model: str
    published: bool
    entries: dict[tuple[str, str, str, str], Entry] = field(default_factory=dict)
    answered: dict[str, tuple[int, int]] = field(default_factory=dict)

    def coverage(self, columns: Iterable[Column]) -> str:
        """`answered/asked` over the tasks of these columns."""
        if self.published:
            return "published"
        tasks = dict.fromkeys(column.task for column in columns)
        found = [self.answered[task] for task in tasks if task in self.answered]
        return f"{sum(answered for answered, _ in found)}/{sum(asked for _, asked in found)}"


@dataclass(slots=True)
class Table:
    """Columns, rows, and the notes that its marks refer to (each one line, printable)."""

    columns: list[Column]
    rows: list[Row]
    notes: list[str]


def format_value(metric: MetricRecord, digits: int = 1) -> str:
    """A number as tables show it: display scale, one decimal; the unrounded value is in the record."""
    if metric.value is None:
        return NOT_COMPUTED
    if metric.value == metric.scale[0] == -1.0:
        # COCO's "there is nothing to find" is no percentage.
        return "-1"
    return f"{metric.value * metric.display_factor:.{digits}f}"


def render_table(
    results: Sequence[ResultRecord],
    *,
    format: Format = "markdown",
    published: Published = "none",
    all_metrics: bool = False,
    digits: int = 1,
    join_seeds: bool = False,
) -> str:
    """A table with models as rows and numbers as columns.

    Args:
        format: text, markdown, latex or csv.
        published: also papers' rows for the same columns, marked as published: those of the main tables, or all that
            come with the tasks.
        all_metrics: every metric, not the primary ones only.
        digits: decimals on the display scale.
        join_seeds: models of one name that differ in their training seed make one row of means with intervals.

    Raises:
        UserError: there is nothing to show, or the format is unknown.
    """
    if not results:
        raise UserError("there is no result to show", hint="omgbench run makes one")
    writers = {"text": _text, "markdown": _markdown, "latex": _latex, "csv": _csv}
    if format not in writers:
        raise UserError(f"unknown format {format!r}", expected=f"one of: {', '.join(writers)}")
    table = make_table(results, published=published, all_metrics=all_metrics, digits=digits, join_seeds=join_seeds)
    return writers[format](table)


def make_table(
    results: Sequence[ResultRecord],
    *,
    published: Published = "none",
    all_metrics: bool = False,
    digits: int = 1,
    join_seeds: bool = False,
) -> Table:
    """Lay results out; see `render_table`."""
    columns = _columns(results, all_metrics)
    notes = _Notes()
    shown = {column.key for column in columns}
    groups = _by_model(results)
    several_dtypes = len({result.engine.dtype for result in results}) > 1
    rows = []
    for members in joined(groups) if join_seeds else [[group] for group in groups]:
        row = Row(_row_name(members[0][0], several_dtypes), published=False)
        if len(members) == 1:
            _fill(row, members[0], shown, digits, notes)
        else:
            _fill_joined(row, members, shown, digits, notes)
        rows.append(row)
    _mark_mixed_data(results, rows, notes)
    if published != "none":
        rows.extend(_published_rows(columns, published == "all", digits, notes))
    return Table(columns, rows, notes.lines)


class _Notes:
    """Footnotes, numbered by first use."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def number(self, text: str) -> int:
        text = printable(text, SENTENCE_LIMIT)
        if text not in self.lines:
            self.lines.append(text)
        return self.lines.index(text) + 1


def _columns(results: Sequence[ResultRecord], all_metrics: bool) -> list[Column]:
    columns: dict[tuple[str, str, str, str], Column] = {}
    for result in results:
        for metric in result.metrics:
            if metric.primary or all_metrics:
                task = result.task
                column = Column(task.name, task.title, task.subset, task.split, metric.name, metric.display_factor)
                columns.setdefault(column.key, column)
    tasks = list(dict.fromkeys(column.task for column in columns.values()))
    return sorted(columns.values(), key=lambda column: tasks.index(column.task))


def _by_model(results: Sequence[ResultRecord]) -> list[list[ResultRecord]]:
    """One group per table row: results of one model fingerprint, one dtype and one set of marks-deciding options. A
    second result for the same cell starts another row, so nothing is overwritten in silence."""
    rows: list[list[ResultRecord]] = []
    for result in results:
        for row in rows:
            if _makes(row[0]) == _makes(result) and all(other.label != result.label for other in row):
                row.append(result)
                break
        else:
            rows.append([result])
    return rows


def _makes(result: ResultRecord) -> tuple[str, str, dict[str, Any]]:
    """What two results must agree in to stand in one row."""
    return (result.model.fingerprint, result.engine.dtype, result.options)


def _row_name(result: ResultRecord, several_dtypes: bool) -> str:
    dtype = result.engine.dtype
    return f"{result.model.name} ({dtype})" if several_dtypes and dtype != "auto" else result.model.name


def _fill(
    row: Row, results: list[ResultRecord], shown: set[tuple[str, str, str, str]], digits: int, notes: _Notes
) -> None:
    for result in results:
        answered, asked = row.answered.get(result.task.name, (0, 0))
        coverage = result.coverage
        row.answered[result.task.name] = (answered + coverage.answered, asked + coverage.n_samples)
        for metric in result.metrics:
            key = (result.task.name, result.task.subset, result.task.split, metric.name)
            if key not in shown:
                continue
            marks = [notes.number(f"{metric.name} not computed: {metric.note}")] if metric.value is None else []
            marks += [notes.number(mark) for mark in result.marks]
            if not result.complete:
                why = "; ".join(result.reasons[:1])
                marks.append(notes.number(f"incomplete ({result.label}): {why}"))
            row.entries[key] = Entry(format_value(metric, digits), marks)


def _fill_joined(
    row: Row, seeds: list[list[ResultRecord]], shown: set[tuple[str, str, str, str]], digits: int, notes: _Notes
) -> None:
    """Means over seeds; marks of any seed are marks of the mean."""
    single = [Row(row.model, published=False) for _ in seeds]
    values: dict[tuple[str, str, str, str], list[float]] = {}
    for own, results in zip(single, seeds, strict=True):
        _fill(own, results, shown, digits, notes)
        for task, (answered, asked) in own.answered.items():
            before = row.answered.get(task, (0, 0))
            row.answered[task] = (before[0] + answered, before[1] + asked)
        for result in results:
            for metric in result.metrics:
                key = (result.task.name, result.task.subset, result.task.split, metric.name)
                if key in shown and metric.value is not None:
                    values.setdefault(key, []).append(metric.value * metric.display_factor)
    names = ", ".join(str(seed_of(results[0])) for results in seeds)
    what = notes.number(f"mean over the training seeds {names}, with half the width of its 95 % interval (Student's t)")
    for key, found in values.items():
        mean, half_width = mean_and_half_width(found)
        text = f"{mean:.{digits}f}" + ("" if half_width is None else f" ± {half_width:.{digits}f}")
        marks = dict.fromkeys(mark for own in single for mark in own.entries[key].notes)
        short = [] if len(found) == len(seeds) else [notes.number(f"{len(found)} of {len(seeds)} seeds")]
        row.entries[key] = Entry(text, [what, *short, *marks])


def _mark_mixed_data(results: Sequence[ResultRecord], rows: list[Row], notes: _Notes) -> None:
    """Numbers over different data never share a column unmarked."""
    cells: dict[str, list[ResultRecord]] = {}
    for result in results:
        cells.setdefault(result.label, []).append(result)
    for label, compared in cells.items():
        differing = _differences(compared)
        if differing:
            mark = notes.number(f"{label}: rows differ in {', '.join(differing)}")
            for row in rows:
                for key, entry in row.entries.items():
                    if _label(key) == label:
                        entry.notes.append(mark)


def _differences(results: Sequence[ResultRecord]) -> list[str]:
    """What results for one cell were measured on that is not the same for all, in words."""
    seen: dict[str, set[object]] = {
        "requests (samples, prompts or options)": {result.data.requests for result in results},
        # By content: the same files may lie under other names.
        "annotations": {tuple(sorted(result.data.annotations_sha256.values())) for result in results},
        "task version": {result.task.version for result in results},
        # A model that reads no images, and saved predictions, have no fingerprint of them.
        "images": {result.data.images for result in results if result.data.images},
    }
    return [what for what, values in seen.items() if len(values) > 1]


def _label(key: tuple[str, str, str, str]) -> str:
    return f"{key[0]}{'/' + key[1] if key[1] else ''}:{key[2]}"


def _published_rows(columns: list[Column], every: bool, digits: int, notes: _Notes) -> list[Row]:
    wanted = {column.key for column in columns}
    rows: dict[tuple[str, str, str], Row] = {}
    for task in dict.fromkeys(column.task for column in columns):
        for number in published_numbers(task):
            key = (number.task, number.subset, number.split, number.metric)
            if key in wanted and (every or number.main):
                _add_published(rows, number, key, digits, notes)
    return list(rows.values())


def _add_published(
    rows: dict[tuple[str, str, str], Row],
    number: PublishedNumber,
    key: tuple[str, str, str, str],
    digits: int,
    notes: _Notes,
) -> None:
    name = number.model + (f" ({number.variant})" if number.variant else "")
    row = rows.setdefault((number.model, number.variant, number.paper), Row(name, published=True))
    marks = [notes.number(f"published: {number.source}")]
    if number.notes:
        marks.append(notes.number(number.notes))
    row.entries[key] = Entry(f"{number.value:.{digits}f}", marks)


def _grid(
    table: Table, columns: Sequence[Column], escape: Callable[[str], str] = str
) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of cells; every text printable and then escaped, marks as they are."""

    def show(text: str) -> str:
        return escape(printable(text))

    heads = ["Model", *(show(column.head) for column in columns), "Answered"]
    none = Entry("–")
    lines = [
        [show(row.model), *(row.entries.get(column.key, none).shown(show) for column in columns), row.coverage(columns)]
        for row in table.rows
    ]
    return heads, lines


def _numbered(notes: Iterable[str]) -> list[str]:
    return [f"[{number}] {note}" for number, note in enumerate(notes, start=1)]


def _text(table: Table) -> str:
    """For a terminal: one block per task, so that lines stay short."""
    blocks = []
    for task in dict.fromkeys(column.task for column in table.columns):
        columns = [column for column in table.columns if column.task == task]
        heads, lines = _grid(table, columns)
        # The block's title names the task once.
        short = [printable(column.head.removeprefix(column.title).strip()) for column in columns]
        heads = [heads[0], *short, heads[-1]]
        blocks.append(f"{printable(columns[0].title)}\n{_aligned(heads, lines)}")
    return "\n\n".join(blocks) + "\n" + "".join(f"{note}\n" for note in _numbered(table.notes))


def _aligned(heads: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [heads, *lines]) for column in range(len(heads))]

    def show(line: list[str]) -> str:
        rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "  ".join([line[0].ljust(widths[0]), *rest]).rstrip()

    return "\n".join([show(heads), "  ".join("-" * width for width in widths), *map(show, lines)])


def _markdown(table: Table) -> str:
    heads, lines = _grid(table, table.columns, _escape_markdown)
    body = ["| " + " | ".join(line) + " |" for line in [heads, *lines]]
    body.insert(1, "|" + "|".join(["---", *["---:"] * (len(heads) - 1)]) + "|")
    notes = [f"{note}  " for note in _numbered(map(_escape_markdown, table.notes))]
    return "\n".join(body + (["", *notes] if notes else [])) + "\n"


# Brackets, parentheses and the exclamation mark too: an image in a model's name would be fetched by whoever reads it.
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|<>*_`[]()!#&~"})


def _escape_markdown(text: str) -> str:
    return " ".join(text.translate(_MARKDOWN).split())


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex(table: Table) -> str:
    """A `tabular` for booktabs. Rows begin with `{}` so that a name in brackets is not read as an option."""
    heads, lines = _grid(table, table.columns, _escape_latex)

    def show(line: list[str]) -> str:
        return "{}" + " & ".join(line) + r" \\"

    notes = [f"% {note}" for note in _numbered(table.notes)]
    body = [r"\begin{tabular}{l" + "r" * (len(heads) - 1) + "}", r"\toprule", show(heads), r"\midrule"]
    return "\n".join([*notes, *body, *map(show, lines), r"\bottomrule", r"\end{tabular}"]) + "\n"


def _csv(table: Table) -> str:
    """Long form, one number a line: spreadsheets and scripts want no footnotes in cells."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["model", "published", "task", "subset", "split", "metric", "value", "answered", "notes"])
    for row in table.rows:
        for column in table.columns:
            entry = row.entries.get(column.key)
            if entry is not None:
                notes = "; ".join(table.notes[number - 1] for number in entry.notes)
                name, *key = (_no_formula(printable(text)) for text in (row.model, *column.key))
                writer.writerow([name, row.published, *key, entry.text, row.coverage([column]), _no_formula(notes)])
    return stream.getvalue()


def _no_formula(text: str) -> str:
    """Spreadsheets run cells that begin with these characters."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
