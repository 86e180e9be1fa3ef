"""The names of checkpoints on the page."""

from workbench.checkpoints import Checkpoint
from workbench.checkpoints.names import short_name


def label(checkpoint: Checkpoint) -> str:
    """The name of a checkpoint on the page: `tiny-olmo · step 4,000 · 16 M tokens`."""
    name, _, revision = checkpoint.id.partition("@")
    parts = [short_name(name)]
    if checkpoint.step is not None:
        parts.append(f"step {checkpoint.step:,}")
        extra = revision.removeprefix(f"step{checkpoint.step}").strip("-")
        parts += [extra] if extra and not extra.startswith("tokens") and "step" not in extra else []
    elif revision:
        parts.append(revision)
    if checkpoint.tokens:
        parts.append(f"{amount(checkpoint.tokens)} tokens")
    return " · ".join(parts)


def amount(number: int) -> str:
    """A count with three significant digits and a unit: 16 M, 4.03 T."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
