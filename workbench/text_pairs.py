"""Matched pairs of prompts: what patching reads.

pairs = TextPairs.read("tiny-olmo/number-pairs", tokenizer)
activation_patching(model, pairs.clean, pairs.corrupted, pairs.answers, pairs.others, tokenizer=tokenizer)
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from transformers import PreTrainedTokenizerBase

from workbench import embedded_texts, text_files
from workbench.errors import WorkbenchError
from workbench.texts import Texts
from workbench.tokens import token_id

COLUMNS = ("clean", "corrupted", "answer")
OTHER = "other"


@dataclass(frozen=True, eq=False)
class TextPairs:
    """Prompts in two versions of equal length in tokens, and the next token in which the versions differ.

    Attributes:
        clean, corrupted: the two versions.
        answers: the next token after each clean prompt, as text.
        others: the next token after each corrupted prompt, as text; None if they are not known.
    """

    clean: Texts
    corrupted: Texts
    answers: tuple[str, ...]
    others: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        counts = {"clean": len(self.clean), "corrupted": len(self.corrupted), "answers": len(self.answers)}
        if self.others is not None:
            counts["others"] = len(self.others)
        if len(set(counts.values())) > 1:
            raise WorkbenchError(
                f"there are {', '.join(f'{count} {name}' for name, count in counts.items())}; give one of each for "
                "every pair"
            )

    @classmethod
    def read(cls, path: str | Path, tokenizer: PreTrainedTokenizerBase, *, longest: int | None = None) -> Self:
        """Pairs from a csv, jsonl or parquet file with the columns `clean`, `corrupted`, `answer` and, if wanted,
        `other`; or a built-in set of pairs (see `text_sets`).

        An answer is one token, with its leading space: " was".

        Errors: WorkbenchError, with the line number, for the faults that `Texts.read` names, prompts of a pair that
        differ in length or do not differ at all, an answer that is not one token, and prompts of more than `longest`
        tokens.
        """
        file = embedded_texts.path_of(path)
        columns = [*COLUMNS, *([OTHER] if OTHER in text_files.columns_of(file) else [])]
        rows = list(text_files.read_rows(file, columns))
        if not rows:
            raise WorkbenchError(f"{file} holds no pairs of prompts")
        places = text_files.FileLines(file, array("Q", (row.line for row in rows)))
        sides = (Texts.of(tokenizer, [row.cells[side] for row in rows]) for side in (0, 1))
        clean, corrupted = (replace(side, places=places) for side in sides)
        lengths = (array("q", clean.lengths), array("q", corrupted.lengths))
        for number, row in enumerate(rows):
            where = text_files.place_in_file(file, row.line)
            _check_pair(where, row.cells, (lengths[0][number], lengths[1][number]), longest)
            _check_answers(where, row.cells[2:], tokenizer)
        answers, *others = (tuple(row.cells[place] for row in rows) for place in range(2, len(columns)))
        return cls(clean, corrupted, answers, others[0] if others else None)

    def __len__(self) -> int:
        return len(self.clean)


def _check_pair(where: str, cells: Sequence[str], lengths: tuple[int, int], longest: int | None) -> None:
    if lengths[0] != lengths[1]:
        raise WorkbenchError(
            f"{where}: the clean prompt has {lengths[0]} tokens and the corrupted one {lengths[1]}; patching needs "
            "pairs of equal length in tokens"
        )
    if cells[0] == cells[1]:
        raise WorkbenchError(f"{where}: the clean and the corrupted prompt are the same, {cells[0]!r:.40}")
    if longest is not None and lengths[0] > longest:
        raise WorkbenchError(f"{where}: the prompts have {lengths[0]:,} tokens and the model takes at most {longest:,}")


def _check_answers(where: str, answers: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    for answer in answers:
        try:
            token_id(answer, tokenizer, len(tokenizer))
        except WorkbenchError as error:
            raise WorkbenchError(f"{where}: {error}") from error
    if len(set(answers)) < len(answers):
        raise WorkbenchError(
            f"{where}: both answers are {answers[0]!r}; give the two tokens that the versions differ in"
        )
