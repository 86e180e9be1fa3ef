"""Edits as people type them, one a line.

zero blocks.1.attn.z heads=3,4        set to zero, at these heads
scale blocks.2.mlp_out 0.5            multiply
add blocks.2.resid_post 8 lemon       add a vector of this length in the direction that raises a token's logit
"""

import math

from transformers import PreTrainedTokenizerBase

from hooks import Edit, OlmoForCausalLM, edits
from workbench.errors import WorkbenchError
from workbench.text import vocabulary_labels

SHAPES = ("zero SITE", "scale SITE FACTOR", "add SITE LENGTH TOKEN")


def parse_edits(text: str, model: OlmoForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[Edit]:
    """The edits that a text describes. Raises WorkbenchError that names the line; the model checks the sites."""
    return [_parse(line, model, tokenizer) for line in text.splitlines() if line.strip()]


def _parse(line: str, model: OlmoForCausalLM, tokenizer: PreTrainedTokenizerBase) -> Edit:
    heads = None
    words = []
    for word in line.split():
        if word.startswith("heads="):
            heads = [int(number) for number in word.removeprefix("heads=").split(",") if number.isdigit()]
        else:
            words.append(word)
    match words:
        case ["zero", site]:
            return edits.zero(site, heads=heads)
        case ["scale", site, factor]:
            return edits.scale(site, _number(factor, line), heads=heads)
        case ["add", site, length, token]:
            row = model.get_output_embeddings().weight[token_id(token, tokenizer)].detach().float()
            return edits.add(site, _number(length, line) * row / row.norm(), heads=heads)
    raise WorkbenchError(
        f"{line!r} is no edit; write {' or '.join(SHAPES)}, and heads=0,1 after it for some heads only"
    )


def _number(text: str, line: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise WorkbenchError(f"{text!r} in {line!r} is no number") from error
    if not math.isfinite(number):
        raise WorkbenchError(f"{text!r} in {line!r} is not finite")
    return number


def token_id(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of a text that is one token; `▁` stands for a space. Raises WorkbenchError for any other."""
    ids = tokenizer(text.replace("▁", " "), add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise WorkbenchError(f"{text!r} is {len(ids)} tokens ({' '.join(vocabulary_labels(ids, tokenizer))}), not one")
    return ids[0]
