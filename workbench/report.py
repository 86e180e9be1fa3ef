"""Reports: titled tables with plots and provenance, as terminal text, CSV or one HTML page.

The HTML page needs no network: it contains plotly.js once.
"""

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from workbench.colours import CELLS_STYLE, ON_DARK, TEXT_STYLE
from workbench.result_files import Storable
from workbench.results import Labelled

CSV_NOTE = (
    "# some texts may begin with = + - or @; they are not formulas: import text columns as text into a spreadsheet"
)
ROWS = 40  # shown of a table on a terminal
WIDTH = 100  # characters in a line on the terminal
PAGE_ROWS = 200  # shown of a table on the HTML page

_STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.1em; margin: 2.2em 0 .3em; }
p { max-width: 46em; margin: .4em 0; } p.text { white-space: pre-wrap; font-family: ui-monospace, monospace; }
nav { margin: 1em 0; } nav a { margin-right: 1em; color: inherit; }
.table { overflow-x: auto; max-height: 32em; margin: .6em 0; }
table { border-collapse: collapse; font: 12.5px/1.5 ui-monospace, monospace; }
th, td { padding: 1px 10px; border-bottom: 1px solid #8883; white-space: pre; text-align: right; }
summary { cursor: pointer; font-size: 13px; }
th { position: sticky; top: 0; background: Canvas; } .words { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1.2em; font-size: 13px; color: GrayText; }
dd { margin: 0; color: CanvasText; overflow-wrap: anywhere; }
"""
DARK_STYLE = f".js-plotly-plot {{ {ON_DARK} }} {CELLS_STYLE}"
STYLE = f"{_STYLE}{TEXT_STYLE} @media (prefers-color-scheme: dark) {{ {DARK_STYLE} }}"


@dataclass(frozen=True)
class Section:
    """One titled table with plots and a note.

    Attributes:
        title: heading.
        table: the whole table, for CSV.
        pictures: results that are plotted above the table on the HTML page.
        note: how to read the table; on the HTML page.
        shown: the table to show on the terminal and the page; None shows `table`.
        page_only: True to leave the section out on the terminal and fold its table on the page.
        results: the results that the section shows, by a name that no other section uses, for `--save`.
    """

    title: str
    table: pd.DataFrame
    pictures: Sequence[Labelled] = ()
    note: str = ""
    shown: pd.DataFrame | None = None
    page_only: bool = False
    results: Mapping[str, Storable] = field(default_factory=dict)

    @property
    def summary(self) -> pd.DataFrame:
        """The table to show on the terminal and the page."""
        return self.table if self.shown is None else self.shown


@dataclass(frozen=True)
class Report:
    """The result of one command.

    Attributes:
        title: heading.
        sections: tables, in order.
        provenance: the origin of the numbers, by name.
        text: shown before the sections.
        ok: False if a check failed.
    """

    title: str
    sections: list[Section]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    ok: bool = True

    @property
    def results(self) -> dict[str, Storable]:
        """The results of all sections, by name."""
        return {name: found for section in self.sections for name, found in section.results.items()}


def as_text(report: Report) -> str:
    """The report as terminal text: the first rows of each table, and the number of rows left out."""
    parts = [report.text] if report.text else []
    for section in (section for section in report.sections if not section.page_only):
        rows = section.summary
        more = [f"… {len(rows) - ROWS} more rows"] if len(rows) > ROWS else []
        parts.append("\n".join([section.title, *aligned(rows.head(ROWS)), *more]))
    return "\n\n".join(parts)


def aligned(table: pd.DataFrame) -> list[str]:
    """Lines of a table, with numbers aligned right and words left.

    Columns that exceed the width continue in a block below, which repeats the first column.
    """
    first, *others = (_column(table[name]) for name in table)
    blocks = [[first]]
    for column in others:
        fits = sum(len(cells[0]) + 2 for cells in [*blocks[-1], column]) - 2 <= WIDTH
        if fits or len(blocks[-1]) == 1:
            blocks[-1].append(column)
        else:
            blocks.append([first, column])
    return [line for block in blocks for line in ("  ".join(cells).rstrip() for cells in zip(*block, strict=True))]


def _column(column: pd.Series) -> list[str]:
    """The name and the cells of a column, padded to one width."""
    cells = [str(column.name), *(cell_text(cell) for cell in column)]
    width = max(map(len, cells))
    return [cell.ljust(width) if is_words(column) else cell.rjust(width) for cell in cells]


def is_words(column: pd.Series) -> bool:
    """Whether a column is aligned left: it is not numeric."""
    return not pd.api.types.is_numeric_dtype(column)


def report_of(found: Labelled) -> Report:
    """A report of one result, as exported from a view of the page."""
    return report_of_all({found.title: found}, found.title)


def report_of_all(results: Mapping[str, Storable], title: str) -> Report:
    """A report of several results by name: a section for each, with its plots."""
    sections, provenance = [], dict[str, Any]()
    for name, found in results.items():
        pictures = plotted(found)
        for one in [found, *pictures]:
            provenance |= getattr(one, "provenance", {})
        sections.append(Section(name, found.table(), pictures, results={name: found}))
    return Report(title, sections, provenance)


def plotted(found: Storable) -> list[Labelled]:
    """The parts of a result that have a plot: the result itself, or the results among its fields."""
    if isinstance(found, Labelled):
        return [found]
    return [one for one in found.stored_fields().values() if isinstance(one, Labelled)]


def as_csv(report: Report, number: int = 0) -> str:
    """One table of the report in full as CSV, that of section `cell_text`, after `#` lines with the provenance.

    Numbers are written with the fewest digits that restore them exactly in their precision; a column of whole numbers
    has no decimal points. Texts are unchanged and in double quotes, so that `#`, commas and line breaks in tokens are
    safe. Undefined cells are empty.

    To read the file exactly: `pandas.read_csv(file, comment="#", keep_default_na=False, na_values=[""])`; a column of
    texts that are all digits needs `dtype={column: str}`.

    Texts that begin with `=`, `+`, `-` or `@` are common tokens and are not changed, although a spreadsheet reads them
    as formulas; a note at the top of the file warns of this.
    """
    lines = [f"# {name}: {one_line(str(value))}" for name, value in report.provenance.items()]
    head = [f"# read with pandas.read_csv(file, skiprows={len(lines) + 2})", CSV_NOTE, *lines]
    table = report.sections[number].table
    return "\n".join([*head, ",".join(map(csv_name, table)), *csv_rows(table)]) + "\n"


def csv_rows(table: pd.DataFrame) -> Iterator[str]:
    """The rows of a table as CSV."""
    return map(",".join, zip(*(csv_cells(table[name]) for name in table), strict=True))


def csv_cells(column: pd.Series) -> list[str]:
    """The cells of a column as CSV."""
    if pd.api.types.is_float_dtype(column):
        text = whole_text if holds_whole_numbers(column) else str
        return ["" if number != number else text(number) for number in column.to_numpy()]
    codes, distinct = pd.factorize(column, use_na_sentinel=False)
    return np.array([csv_cell(cell) for cell in distinct], dtype=object)[codes].tolist()


def holds_whole_numbers(column: pd.Series) -> bool:
    """Whether all defined numbers of a column are whole, and small enough to be exact."""
    numbers = column.dropna().to_numpy()
    return bool((abs(numbers) < 2**53).all() and (numbers % 1 == 0).all())


def whole_text(number: float) -> str:
    return str(int(number))


def csv_cell(cell: object) -> str:
    """A cell as CSV: a text in double quotes, an undefined value empty, any other value as `str`."""
    if isinstance(cell, str):
        return '"' + cell.replace('"', '""') + '"'
    return "" if pd.isna(cell) else str(cell)


def csv_name(name: str) -> str:
    """The name of a column as CSV, in double quotes if it needs them."""
    return csv_cell(name) if set(name) & set('",#\r\n') else name


def one_line(text: str) -> str:
    """A text on one line: unchanged, or as a JSON string if its white space or quotes would be ambiguous."""
    is_plain = text == " ".join(text.split()) and ',"' not in text
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def as_html(report: Report) -> str:
    """The report as one HTML page."""
    links = "".join(f'<a href="#s{n}">{html.escape(s.title)}</a>' for n, s in enumerate(report.sections))
    drawn = [n for n, section in enumerate(report.sections) if section.pictures]
    sections = [
        _section(section, n, library=drawn[:1] == [n], headed=section.title != report.title)
        for n, section in enumerate(report.sections)
    ]
    text = f'<p class="text">{html.escape(report.text)}</p>' if report.text else ""
    title = html.escape(report.title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>'
        f"{text}<nav>{links if len(report.sections) > 1 else ''}</nav>{''.join(sections)}"
        f"<h2>Provenance</h2>{_provenance(report.provenance)}</body></html>"
    )


def _section(section: Section, place: int, library: bool, headed: bool) -> str:
    options = {"displaylogo": False, "responsive": True}
    shown = [replace(one, title="") if one.title == section.title else one for one in section.pictures]
    pictures = "".join(
        picture.plot().to_html(full_html=False, include_plotlyjs=library and n == 0, config=options)
        for n, picture in enumerate(shown)
    )
    note = f"<p>{html.escape(section.note)}</p>" if section.note else ""
    table = _table(section.summary)
    if section.page_only:
        table = f"<details><summary>numbers</summary>{table}</details>"
    heading = f'<h2 id="s{place}">{html.escape(section.title)}</h2>' if headed else ""
    return f"{heading}{note}{pictures}{table}"


def _table(table: pd.DataFrame) -> str:
    words = ['class="words"' if is_words(table[name]) else "" for name in table]
    head = "".join(f"<th {kind}>{html.escape(str(name))}</th>" for name, kind in zip(table, words, strict=True))
    rows = [
        "".join(f"<td {kind}>{html.escape(cell_text(cell))}</td>" for cell, kind in zip(row, words, strict=True))
        for row in table.head(PAGE_ROWS).itertuples(index=False)
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    more = f"<p>… {len(table) - PAGE_ROWS} more rows</p>" if len(table) > PAGE_ROWS else ""
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'


def _provenance(provenance: Mapping[str, Any]) -> str:
    terms = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in provenance.items())
    return f"<dl>{''.join(terms)}</dl>"


def cell_text(cell: object) -> str:
    """A cell as text: a float with four significant digits, a whole one in full, NaN as "", others as `str`."""
    if isinstance(cell, float):
        is_count = 1e4 <= abs(cell) < 1e9 and cell == int(cell)
        return "" if math.isnan(cell) else str(int(cell)) if is_count else f"{cell:.4g}"
    return str(cell)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without its module: `float32`."""
    return str(dtype).removeprefix("torch.")
