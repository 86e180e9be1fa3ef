"""Names of checkpoints: reads the step, tokens, stage, ingredient and data order that a name contains.

The same rules apply to revisions of hub repositories (`step1000-tokens4B`, `stage2-ingredient3-step11931-tokens50B`,
`stage1-step99000`, `step_360`, `main`) and to folders of training runs (`step1000`, `step1000-unsharded`,
`checkpoint-500`, `global_step500`, `iter_0000500`, `500`).
"""

import re
from dataclasses import dataclass

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
LAST = ("main", "latest", "final")

STEP = re.compile(
    r"(?:^|[-_.])(?:global[-_]?step|step|checkpoint|ckpt|iter(?:ation)?)[-_]?0*(\d+)(?=$|[-_.])", re.IGNORECASE
)
BARE_STEP = re.compile(r"^0*(\d+)$")
TOKENS = re.compile(r"(?:^|[-_])tokens?[-_]?(\d+(?:\.\d+)?)([KMBT]?)(?=$|[-_])", re.IGNORECASE)
STAGE = re.compile(r"(?:^|[-_])stage[-_]?(\d+)(?=$|[-_])", re.IGNORECASE)
INGREDIENT = re.compile(r"(?:^|[-_])ingredient[-_]?(\d+)(?=$|[-_])", re.IGNORECASE)
ORDER = re.compile(r"(?:^|[-_])(?:order|seed)[-_]?(\d+)(?=$|[-_])", re.IGNORECASE)


@dataclass(frozen=True)
class Revision:
    """The parts of a revision or folder name; a part that the name does not contain is None."""

    name: str
    step: int | None = None
    tokens: int | None = None
    stage: int | None = None
    ingredient: int | None = None
    order: int | None = None

    @property
    def sort_key(self) -> tuple[bool, int, int, int, bool, int]:
        """Sort key: stage, ingredient, step; at the same step, other data orders before the main run; `main` last.

        Sorted by this key, the last revision of a series is the end of its main run.
        """
        return (
            self.step is None,
            self.stage or 0,
            self.ingredient or 0,
            self.step or 0,
            self.order is None,
            self.order or 0,
        )


def parse(name: str) -> Revision | None:
    """The parts of a revision or folder name; None if the name contains no step and is not `main`, `latest` or `final`.

    The suffix of the tokens is a unit: `tokens84B` is 84 × 10⁹.
    """
    step = STEP.search(name) or BARE_STEP.match(name)
    if step is None and name not in LAST:
        return None
    tokens = TOKENS.search(name)
    return Revision(
        name=name,
        step=int(step[1]) if step else None,
        tokens=round(float(tokens[1]) * UNITS[tokens[2].upper()]) if tokens else None,
        stage=_number_in(STAGE, name),
        ingredient=_number_in(INGREDIENT, name),
        order=_number_in(ORDER, name),
    )


def short_name(series: str) -> str:
    """The name of a series as titles show it: of a folder or a hub repository, the last part of its path."""
    return series.rstrip("/").rsplit("/", 1)[-1]


def split_id(checkpoint_id: str) -> tuple[str, str | None]:
    """`name@revision` as (name, revision); the revision is None if the id has none."""
    name, at, revision = checkpoint_id.rpartition("@")
    return (name, revision) if at and name else (checkpoint_id, None)


def _number_in(pattern: re.Pattern[str], name: str) -> int | None:
    found = pattern.search(name)
    return int(found[1]) if found else None
