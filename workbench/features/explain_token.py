"""`explain_token`: the features that are active at a token, and what each adds to the prediction there."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from hooks import Capture, OlmoForCausalLM
from workbench.analyses.support.arguments import chosen, one_text
from workbench.analyses.support.cost import ALONE, Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary
from workbench.features.feature_table import TOKENS, reaches_logits, read_by_logits
from workbench.progress import Progress, report
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_id, vocabulary_labels

EXPLAINING = "features at a token"


@torch.no_grad()
def explain_token(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    dictionaries: Mapping[str, Dictionary],
    *,
    position: int = -1,
    token: int | str | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The features that are active at a position of one text, and what each adds directly to the prediction after it.

    Returns a table with one row for each active feature, those of the largest effect first:

    - `dictionary`, `feature`: the name of its dictionary, and its number.
    - `activation`: how active it is.
    - `effect`: what it adds to the logit of `token`: activation · decoder direction, divided by the frozen scale of the
      final norm and multiplied by the unembedding, less the mean over the vocabulary. Effects through later layers are
      not included. Undefined (NaN) for a site outside the residual stream.
    - `raises`: the tokens whose logits it raises most, in the same way.

    Its `attrs` hold the `position`, the `token` as text and its `probability`.

    For a sparse autoencoder of the last layer, the effects, and those of its bias and of its error, add up to the logit
    less the mean logit. Those of dictionaries of different layers do not add up: they read the same stream.

    Args:
        model, tokens: a model, and one text.
        dictionaries: sparse autoencoders and transcoders by name.
        position: the position whose features are wanted; negative ones count from the end.
        token: the token after it, an id or with a `tokenizer` its text; the likeliest one if not given.
        tokenizer: for readable tokens; token ids without it.
        progress: called before and after the run.

    Errors: WorkbenchError for no dictionary, for a crosscoder, or for one that does not fit the model.
    """
    batch = one_text(tokens, model)
    (position,) = chosen([position], batch.shape[1], "position")
    _check_fit(model, dictionaries)
    report(progress, 0.0, EXPLAINING)
    sites = dict.fromkeys(["ln_final.scale", *(dictionary.reads for dictionary in dictionaries.values())])
    keep = torch.tensor([position], device=model.device)
    run = model.run(batch, capture=[Capture(site, positions=[position]) for site in sites], logits_to_keep=keep)
    target = int(run.logits[0, -1].argmax()) if token is None else token_id(token, tokenizer, model.config.vocab_size)
    rows = []
    for name, dictionary in dictionaries.items():
        read = run[dictionary.reads].flatten(2)[0]  # 1 d_read
        firing = dictionary.to(read.device).encode(read)
        active = firing.values[0] > 0
        numbers, values = firing.indices[0, active].tolist(), firing.values[0, active]
        if not numbers:
            continue
        effects, raises = [float("nan")] * len(numbers), [""] * len(numbers)
        if reaches_logits(dictionary):
            logits = read_by_logits(
                model, written_by_features(dictionary, read, numbers, values), run["ln_final.scale"][0, 0]
            )
            effects = (logits[:, target] - logits.mean(-1)).tolist()
            most = logits.topk(min(TOKENS, logits.shape[-1])).indices.tolist()
            raises = [" · ".join(vocabulary_labels(ids, tokenizer)) for ids in most]
        rows += list(zip([name] * len(numbers), numbers, values.tolist(), effects, raises, strict=True))
    report(progress, 1.0, EXPLAINING)
    table = pd.DataFrame(rows, columns=["dictionary", "feature", "activation", "effect", "raises"])
    table = table.sort_values("effect", ascending=False, key=abs, kind="stable", ignore_index=True)
    table.attrs = {
        "position": position,
        "token": vocabulary_labels([target], tokenizer)[0],
        "probability": float(run.logits[0, -1].float().softmax(-1)[target]),
    }
    return table


@work_of(explain_token)
def _work(model: OlmoForCausalLM, tokens: TextsLike, dictionaries: Mapping[str, Dictionary], **_: object) -> Work:
    """A gate without a k is taken to have one in 16 features active."""
    length = one_text(tokens, model).shape[1]
    sites = list(dict.fromkeys(dictionary.reads for dictionary in dictionaries.values()))
    nbytes = peak_bytes(model, EXPLAINING, run_bytes(model, capture=sites), length, length)
    flops = pass_flops(model, length, logits=ALONE)
    for dictionary in dictionaries.values():
        active = dictionary.gate.k or len(dictionary) // 16
        flops += 2 * ALONE * dictionary.encoder.numel()
        flops += pass_flops(model, 0, logits=max(ALONE, active) if reaches_logits(dictionary) else 0)
    return Work(flops, nbytes=nbytes)


def written_by_features(dictionary: Dictionary, read: Tensor, numbers: list[int], values: Tensor) -> Tensor:
    """What features write for one activation `read` (1 d_read), given their activations: feature d_write, float32."""
    pairs = zip(numbers, values, strict=True)
    return torch.cat([dictionary.added(read, amount[None], feature) for feature, amount in pairs])


def _check_fit(model: OlmoForCausalLM, dictionaries: Mapping[str, Dictionary]) -> None:
    if not dictionaries:
        raise WorkbenchError("no dictionaries are given; name at least one")
    for name, dictionary in dictionaries.items():
        if dictionary.sources:
            raise WorkbenchError(
                f"{name} is a crosscoder, which reads several models at once; give dictionaries that read one model"
            )
        dictionary.check_fits(model)
