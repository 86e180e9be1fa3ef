"""Progress is a fraction that rises to one; an exception in the callback stops the work."""

import pytest

from workbench.progress import part, steps, tqdm_progress


def test_steps_report_before_each_item_and_at_the_end() -> None:
    heard: list[tuple[float, str]] = []
    assert list(steps("abcd", lambda *report: heard.append(report), "letters")) == list("abcd")
    assert heard == [(n / 4, "letters") for n in range(5)]
    assert list(steps("ab", None, "letters")) == ["a", "b"]


def test_a_part_is_its_share_of_the_whole() -> None:
    heard: list[float] = []
    for stage in (part(lambda f, text: heard.append(f), 0.0, 0.5), part(lambda f, text: heard.append(f), 0.5, 1.0)):
        list(steps("ab", stage, ""))
    assert heard == [0, 0.25, 0.5, 0.5, 0.75, 1]
    assert part(None, 0, 1) is None


def test_cancelling_reaches_the_caller_unchanged() -> None:
    done: list[str] = []

    def cancel(fraction: float, text: str) -> None:
        if fraction >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done.extend(iter(steps("abcd", cancel, "")))
    assert done == ["a", "b"]


def test_a_bar_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    list(steps("ab", tqdm_progress(), "letters"))
    drawn = capsys.readouterr().err
    assert "letters:  50%" in drawn and not drawn.rpartition("\r")[0].endswith("%")
