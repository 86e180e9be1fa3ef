"""The CSV of the page and the command line: exact numbers, exact texts, and provenance."""

from io import StringIO

import numpy as np
import pandas as pd
import pytest

from workbench.report import Report, Section, aligned, as_csv, as_html, report_of
from workbench.results import Scores

EXACTLY = {"keep_default_na": False, "na_values": [""]}
TEXTS = [
    *("#", "# no comment", "a#b", "x\n#y", ",", '"', '""', "'s", "a\nb", "\r", "\r\n", "\t", " x ", "\u2028", "\x00"),
    *("=", "=1+1", "+", "-1", "@x", "NA", "nan", "null", "None", "True", "1", "1.50", "é", "語₁", "\ufeff"),
]
HOSTILE = {"text": 'She said,"no\n\n# and', "list": '["a","b', "plain": "it's #1,  or 2", "seed": 0}


def table_of(seed: int) -> pd.DataFrame:
    """Every kind of column, each with an undefined cell."""
    random, size = np.random.default_rng(seed), len(TEXTS)
    single = (random.standard_normal(size) * 10.0 ** random.integers(-30, 30, size)).astype(np.float32)
    single[3] = np.nan
    return pd.DataFrame(
        {
            "token": random.permutation(np.array(TEXTS, dtype=object)),
            "some": [None if n % 3 == 0 else text for n, text in enumerate(TEXTS)],
            "single": single,
            "double": random.standard_normal(size) * 10.0 ** random.integers(-300, 300, size),
            "number": random.integers(-(2**62), 2**62, size),
            "flag": random.random(size) < 0.5,
            "L0H1, of #2": range(size),
        }
    )


@pytest.mark.parametrize("by", ["comment", "skiprows"])
@pytest.mark.parametrize("seed", range(4))
def test_a_csv_is_read_back_to_the_bit(by, seed):
    table = table_of(seed)
    written = as_csv(Report("", [Section("", table)], HOSTILE))
    head = written.split("\n", 1)[0]
    rows = int(head.removeprefix("# read with pandas.read_csv(file, skiprows=").removesuffix(")"))
    found = pd.read_csv(StringIO(written, newline=""), **EXACTLY, **({by: "#"} if by == "comment" else {by: rows}))
    assert list(found) == list(table)
    for name in ("token", "double", "number", "flag", "L0H1, of #2"):
        assert found[name].tolist() == table[name].tolist(), name
    assert np.array_equal(found["single"].to_numpy(np.float32), table["single"].to_numpy(), equal_nan=True)
    assert [None if pd.isna(cell) else cell for cell in found["some"]] == table["some"].replace({np.nan: None}).tolist()


def test_the_head_says_where_it_comes_from_a_line_each_and_what_texts_are():
    lines = as_csv(Report("", [Section("", pd.DataFrame({"n": [1]}))], HOSTILE)).splitlines()
    assert lines[1].startswith("# some texts may begin with = + - or @; they are not formulas")
    assert [lines[0], *lines[2:]] == [
        "# read with pandas.read_csv(file, skiprows=6)",
        r'# text: "She said,\"no\n\n# and"',
        r'# list: "[\"a\",\"b"',
        '# plain: "it\'s #1,  or 2"',
        "# seed: 0",
        "n",
        "1",
    ]


def test_texts_stay_what_they_are_and_in_quotes():
    for text in TEXTS:
        written = as_csv(Report("", [Section("", pd.DataFrame({"t": [text]}))]))
        assert written.endswith('\nt\n"' + text.replace('"', '""') + '"\n')


def test_a_file_holds_one_table():
    first, second = pd.DataFrame({"n": [1], "token": ["="]}), pd.DataFrame({"n": [2], "x": np.float32([0.1])})
    report = Report("", [Section("A", first), Section("B, #2", second)])
    assert as_csv(report).splitlines()[2:] == ["n,token", '1,"="']
    assert as_csv(report, 1).splitlines()[2:] == ["n,x", "2,0.1"]


def test_whole_numbers_are_written_as_whole_numbers():
    table = pd.DataFrame(
        {"rank": np.float32([1, 20_000]), "place": [3.0, np.nan], "p": [0.5, 1.0], "far": [1e300, 1.0]}
    )
    assert as_csv(Report("", [Section("", table)])).splitlines()[3:] == ["1,3,0.5,1e+300", "20000,,1.0,1.0"]
    assert [line.split() for line in aligned(table[["rank"]])] == [["rank"], ["1"], ["20000"]]


def test_a_result_is_a_report():
    found = Scores([0.5, 2.0], ["#", "-"], title="Some", provenance={"checkpoint": "x"})
    report = report_of(found)
    assert (report.title, report.provenance) == ("Some", {"checkpoint": "x"})
    assert pd.read_csv(StringIO(as_csv(report)), comment="#")["name"].tolist() == ["#", "-"]


def test_a_title_stands_once_on_the_page_of_one_result():
    scores = Scores([1.0, 2.0], ["a", "b"], title="Which part wrote it")
    section = Section(scores.title, scores.table(), [scores])
    shown = as_html(Report(scores.title, [section])).split("<body>")[1]
    assert shown.count(scores.title) == 1
    several = as_html(Report("All of it", [section, section])).split("<body>")[1]
    assert several.count(f"{scores.title}</h2>") == 2
