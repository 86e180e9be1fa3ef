"""The tables of the data card, made from the records of `measure`, and that of the card of the dictionaries."""

from collections.abc import Mapping

SHOWN_BY_POSITION = {"step400", "step2000", "step4000", "step6000"}
COLUMNS = {
    "revision": "checkpoint",
    "tokens": "tokens",
    "heldout_english": "loss, English",
    "heldout_code": "loss, code",
    "first_copy_loss": "first copy",
    "second_copy_loss": "second copy",
    "previous_head": "previous-token head",
    "previous_score": "its score",
    "induction_head": "induction head",
    "induction_score": "its score",
}


def cell(value: object) -> str:
    """A table cell as text: floats with three decimals, integers with thousands separators."""
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def markdown(lines: list[list[str]]) -> str:
    """Lines of cells as the rows of a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main_table(records: list[dict]) -> str:
    """The main table of the data card, in Markdown: one row for each checkpoint."""
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    lines += [[cell(record[key]) for key in COLUMNS] for record in records]
    return markdown(lines)


def position_table(records: list[dict]) -> str:
    """A Markdown table of the loss by range of positions; one row for each checkpoint."""
    ranges = list(records[0]["loss_by_position"])
    lines = [["checkpoint", *(f"tokens {span}" for span in ranges)], ["---"] * (len(ranges) + 1)]
    lines += [[record["revision"], *(cell(record["loss_by_position"][span]) for span in ranges)] for record in records]
    return markdown(lines)


def put_between(text: str, marker: str, content: str) -> str:
    """`text` with the part between the two comments of `marker` replaced by `content`."""
    begin, end = f"<!-- {marker} -->", f"<!-- end of {marker} -->"
    before, _, rest = text.partition(begin)
    assert end in rest, f"no '{begin} … {end}' in the text"
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


def with_tables(card: str, records: list[dict]) -> str:
    """The text of the data card with updated tables."""
    shown = [record for record in records if record["revision"] in SHOWN_BY_POSITION]
    return put_between(put_between(card, "series", main_table(records)), "positions", position_table(shown))


LEAST_LOST = 0.1
"""Nats that the mean must cost, for the share that is recovered to mean something."""
SCORE_COLUMNS = {
    "explained": "variance explained",
    "l0": "active features",
    "dead": "silent",
    "loss": "loss",
    "replaced": "with the reconstruction",
    "ablated": "with the mean",
    "recovered": "recovered",
}


def dictionary_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A Markdown table of the measures of dictionaries: a row for each, and for each source of a crosscoder."""
    lines = [["dictionary", *SCORE_COLUMNS.values()], ["---"] * (1 + len(SCORE_COLUMNS))]
    for name in sorted(scores):
        for source, found in scores[name].items():
            of = f"tiny-olmo@{name}" if len(scores[name]) == 1 else f"… at {source.partition('@')[2]}"
            if source == next(iter(scores[name])) and len(scores[name]) > 1:
                lines.append([f"tiny-olmo@{name}", *[""] * len(SCORE_COLUMNS)])
            values = [cell(int(found[key]) if key == "dead" else float(found[key])) for key in SCORE_COLUMNS]
            if found["ablated"] - found["loss"] < LEAST_LOST:
                values[-1] = "–"
            lines.append([of, *values])
    return markdown(lines)
