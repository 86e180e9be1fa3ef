"""The next-token prediction read from each layer through a learned affine map, and the training of these maps."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM
from workbench.analyses.logit_lens import layer_predictions, unembed, work_of_lens
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, tokens_at_a_time
from workbench.analyses.support.residual_stream import residuals, residuals_bytes
from workbench.analyses.support.translators import TunedLens
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Curves, Measures
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer


def tuned_lens(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    lens: TunedLens,
    *,
    top_k: int = 5,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """The measures of `logit_lens`, with the residual stream of each layer first translated by `lens`.

    The residual stream h of each layer becomes h + h Wᵀ + b, then goes through the final norm and the unembedding. Each
    layer has its own W and b, trained to give the prediction of the last layer (Belrose et al. 2023, "Eliciting latent
    predictions from transformers with the tuned lens"). The result therefore also shows information that a layer holds
    in other directions than the last layer does; `logit_lens` misses it.

    Errors: WorkbenchError if the lens is for a model of other sizes; those of `logit_lens`.
    """
    lens.check_fits(model)
    found = layer_predictions(model, tokens, lens.translated, top_k=top_k, tokenizer=tokenizer, progress=progress)
    said = {name: replace(measure, title=f"{measure.title} (tuned lens)") for name, measure in found.items()}
    return Measures(**said).with_provenance({"lens": lens.title})


@work_of(tuned_lens)
def _work(model: OlmoForCausalLM, tokens: TextsLike, *_: object, **__: object) -> Work:
    return work_of_lens(model, tokens)


def train_tuned_lens(
    model: OlmoForCausalLM | Sequence[OlmoForCausalLM],
    tokens: TextsLike,
    *,
    epochs: int = 1,
    batch_tokens: int = 1024,
    learning_rate: float = 1e-3,
    seed: int = 0,
    name: str = "",
    progress: Progress | None = None,
) -> TunedLens:
    """A tuned lens trained for one model, or one trained for several checkpoints of a series that share it.

    Training minimises KL(final ‖ layer) of the next-token distributions, mean over tokens, for all layers at once. It
    uses Adam, with a learning rate that falls linearly to 0. The maps start at W = 0 and b = 0, which change nothing.
    Several checkpoints all read every batch, and the mean of their divergences is minimised. No model is changed.

    A shared lens is a little worse than one of a checkpoint's own, and no better than the logit lens at a checkpoint
    without training. On held-out English of tiny-olmo, KL(final ‖ layer) after layer 0 is 0.92 nats at step 6,000 with
    the shared lens (0.83 with that checkpoint's own lens, 1.71 with the logit lens), and 0.042 at step 100 (logit lens
    0.49). At step 0 it is 0.053 after layer 0 (logit lens 0.056), and 0.020 after layer 2 (logit lens 0.018).

    Args:
        model: the model, or several of one shape.
        tokens: texts to learn on; a million tokens are plenty for a small model.
        epochs: the number of passes over the texts, each in a random order that `seed` decides.
        batch_tokens: the approximate number of tokens in a batch; a text is never split.
        learning_rate: the learning rate of the first batch.
        name: the id of the model, or the name of the series, kept with the lens.

    Errors: WorkbenchError for a setting below its least value, for no model, or for models of several shapes.
    """
    if epochs < 1 or batch_tokens < 1 or learning_rate <= 0:
        raise WorkbenchError(
            f"epochs={epochs}, batch_tokens={batch_tokens}, learning_rate={learning_rate}: all must be above 0"
        )
    models = _of_one_shape(model)
    layers, width = _shape(models[0])
    texts = texts_for(models[0], tokens)
    weight = torch.zeros(layers, width, width, device=models[0].device, requires_grad=True)
    bias = torch.zeros(layers, width, device=models[0].device, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    batches = list(texts.batches(batch_tokens))
    order = torch.cat([torch.randperm(len(batches), generator=generator) for _ in range(epochs)]).tolist()
    for done, index in enumerate(steps(order, progress, "tuned lens")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - done / len(order))
        optimizer.zero_grad()
        for each in models:
            resid = residuals(each, batches[index][1].to(each.device)).flatten(1, 2).float()  # layer+1 pos d_model
            for loss in _divergences(each, resid, weight, bias):
                (loss / (len(models) * resid.shape[1])).backward()
        optimizer.step()
    made = {"texts": len(texts), "tokens": texts.tokens, "epochs": epochs, "learning_rate": learning_rate, "seed": seed}
    return TunedLens(weight.detach().cpu(), bias.detach().cpu(), name, made | {"checkpoints": len(models)})


def _of_one_shape(model: OlmoForCausalLM | Sequence[OlmoForCausalLM]) -> list[OlmoForCausalLM]:
    models = [model] if isinstance(model, OlmoForCausalLM) else list(model)
    if not models:
        raise WorkbenchError("a tuned lens is learned from one model or more; none was given")
    shapes = {_shape(each) for each in models}
    if len(shapes) > 1:
        there = " and ".join(f"{layers} layers of width {width}" for layers, width in sorted(shapes))
        raise WorkbenchError(f"models that share a tuned lens must have the same shape; these have {there}")
    return models


def _shape(model: OlmoForCausalLM) -> tuple[int, int]:
    """(layers, d_model) of a model."""
    return model.config.num_hidden_layers, model.config.hidden_size


@work_of(train_tuned_lens)
def _work_of_training(
    model: OlmoForCausalLM | Sequence[OlmoForCausalLM],
    tokens: TextsLike,
    *,
    epochs: int = 1,
    batch_tokens: int = 1024,
    **_: object,
) -> Work:
    models = _of_one_shape(model)
    model, times = models[0], epochs * len(models)
    texts, layers = texts_for(model.config, tokens), model.config.num_hidden_layers
    logits = (1 + 3 * layers) * texts.tokens  # forward and backward
    at_once = max(batch_tokens, texts.longest)
    held = 4 * at_once * (6 * model.config.vocab_size + 4 * model.config.hidden_size)
    peak = peak_bytes(model, "tuned lens", residuals_bytes(model), at_once, fixed=held)
    return Work(times * pass_flops(model, texts.tokens, logits=logits), nbytes=peak)


def _divergences(model: OlmoForCausalLM, resid: Tensor, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """Σ over tokens of KL(final ‖ layer), for each layer in turn. resid: layer+1 pos d_model."""
    with torch.no_grad():
        final = unembed(model, resid[-1].to(model.dtype)).float().log_softmax(-1)
    for layer in range(len(weight)):
        x = resid[layer]
        logits = _logits_of_states(model, x + x @ weight[layer].T + bias[layer])
        yield F.kl_div(logits.log_softmax(-1), final, reduction="sum", log_target=True)


def _logits_of_states(model: OlmoForCausalLM, states: Tensor) -> Tensor:
    """The logits of states (pos d_model), with gradients for the states only: pos vocab."""
    frozen = {name: value.detach() for name, value in model.model.norm.named_parameters()}
    normed = torch.func.functional_call(model.model.norm, frozen, states)
    return F.linear(normed.to(model.dtype), model.lm_head.weight.detach()).float()


@torch.no_grad()
def lens_divergence(
    model: OlmoForCausalLM, tokens: TextsLike, lens: TunedLens, *, progress: Progress | None = None
) -> Curves:
    """KL(final ‖ layer) of the tuned lens and of the logit lens at each layer, mean over the tokens of held-out texts.

    Returns Curves over `embed` and the layers before the last, in nats, with the lines `tuned lens` and `logit lens`. 0
    means that the layer predicts the same distribution as the last layer.

    Errors: WorkbenchError if the lens is for a model of other sizes.
    """
    lens.check_fits(model)
    texts, layers = texts_for(model, tokens), model.config.num_hidden_layers
    total = torch.zeros(2, layers, dtype=torch.float64)
    nothing = torch.zeros_like(lens.weight), torch.zeros_like(lens.bias)
    size = tokens_at_a_time(model, "divergence of lenses", _divergence_bytes(model), texts.longest)
    for _, ids in steps(texts.batches(size), progress, "divergence of lenses"):
        resid = residuals(model, ids.to(model.device)).flatten(1, 2).float()
        for line, maps in enumerate(((lens.weight, lens.bias), nothing)):
            on_device = [part.to(resid.device) for part in maps]
            total[line] += torch.stack(list(_divergences(model, resid, *on_device))).double().cpu()
    return Curves(
        total / texts.tokens,
        ["tuned lens", "logit lens"],
        range(layers),
        x_name="layer",
        x_labels=["embed", *map(str, range(layers - 1))],
        title=f"Divergence of each layer's prediction from the last, over {texts.tokens} tokens",
        value_name="KL",
        unit="nats",
    )


@work_of(lens_divergence)
def _work_of_divergence(model: OlmoForCausalLM, tokens: TextsLike, *_: object, **__: object) -> Work:
    texts, layers = texts_for(model.config, tokens), model.config.num_hidden_layers
    peak = peak_bytes(model, "divergence of lenses", _divergence_bytes(model), texts.longest, texts.tokens)
    return Work(pass_flops(model, texts.tokens, logits=3 * layers * texts.tokens), nbytes=peak)


def _divergence_bytes(model: OlmoForCausalLM) -> float:
    """Bytes for each token of a batch: the residual streams, and the logits and distributions of one layer."""
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    return residuals_bytes(model) + 4 * (9 * model.config.vocab_size + (layers + 5) * width)
