"""Edits of activations in the syntax that users type, one edit a line.

zero blocks.1.attn.z heads=3,4        set to zero, at these heads
scale blocks.2.mlp_out 0.5            multiply
add blocks.2.resid_post 8 lemon       add a vector of this length in the direction that raises a token's logit
# zero blocks.0.attn.z                switched off
"""

import math

from transformers import PreTrainedTokenizerBase

from hooks import edits
from workbench.errors import WorkbenchError
from workbench.generation import toward
from workbench.page.session.arguments import ModelOf
from workbench.page.session.calls import Call
from workbench.tokens import is_whole, token_id

SHAPES = ("zero SITE", "scale SITE FACTOR", "add SITE LENGTH TOKEN")


def edit_calls(text: str, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> tuple[Call, ...]:
    """The edits that a text describes, as calls of `hooks.edits`, which can be run and written as Python.

    Errors: WorkbenchError, with the line, for a line that is no edit. Names of sites are checked later, by the model.
    """
    lines = [line.strip() for line in text.splitlines()]
    return tuple(_edit(line, checkpoint, tokenizer) for line in lines if line and not line.startswith("#"))


def _edit(line: str, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> Call:
    heads = [word.removeprefix("heads=") for word in line.split() if word.startswith("heads=")]
    options = {"heads": _whole(heads[-1], line)} if heads else {}
    match [word for word in line.split() if not word.startswith("heads=")]:
        case ["zero", site]:
            return Call.quick(edits.zero, site, **options)
        case ["scale", site, factor]:
            return Call.quick(edits.scale, site, _number(factor, line), **options)
        case ["add", site, length, token]:
            direction = Call.quick(toward, ModelOf(checkpoint), typed_token(token, tokenizer), _number(length, line))
            return Call.quick(edits.add, site, direction, **options)
    raise WorkbenchError(
        f"{line!r} is not an edit; write {' or '.join(SHAPES)}, followed by heads=0,1 to edit only these heads"
    )


def _whole(text: str, line: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(is_whole(number) for number in numbers):
        raise WorkbenchError(
            f"heads={text} in {line!r} is not a list of heads; write their numbers, for example heads=0,5"
        )
    return tuple(map(int, numbers))


def _number(text: str, line: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise WorkbenchError(f"{text!r} in {line!r} is not a number") from error
    if not math.isfinite(number):
        raise WorkbenchError(f"{text!r} in {line!r} is not finite")
    return number


def typed_token(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of a text that is one token; `▁` stands for a space. Raises WorkbenchError for more or fewer tokens."""
    return token_id(text.replace("▁", " "), tokenizer, len(tokenizer))
