"""Training of dictionaries: TopK and BatchTopK, with an auxiliary loss that revives dead features.

    source = features.Streamed({"tiny-olmo@step6000": model}, texts, "blocks.2.resid_post")
    sae = features.train(source, features.TrainingSettings(features=2048, k=16), folder="sae/")

Activations are scaled so that their mean squared norm about their mean is their width, for each checkpoint. The loss is
the squared error of the reconstruction over the variance, plus `auxiliary` times the same for the reconstruction of the
error by dead features alone (AuxK). The initial directions of a feature are equal in all sources of a crosscoder. The
optimiser is Adam; the rows of the decoder keep norm 1, and gradients along them are removed.

Sources: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (TopK, AuxK, initialisation); Bussmann et al.
2024, "BatchTopK sparse autoencoders"; Bricken et al. 2023, "Towards monosemanticity" (norm of the decoder); Dunefsky et
al. 2024, "Transcoders find interpretable LLM feature circuits"; Lindsey et al. 2024, "Sparse crosscoders".
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import WorkbenchError, reason
from workbench.features.dictionary import Dictionary
from workbench.features.firing import Gate, GateName
from workbench.features.sources import ActivationSource
from workbench.progress import Progress, report
from workbench.whole_files import output_file

STATE, PLAN = "training.pt", "training.json"
SLOTS = 4
"""BatchTopK: the most active features of one activation, as a multiple of k."""
FIRST = 8  # batches at the start that give mean and variance, and at the end that give the threshold of BatchTopK
PARAMETERS = ("encoder", "encoder_bias", "decoder", "decoder_bias")


@dataclass(frozen=True)
class TrainingSettings:
    """How a dictionary is trained.

    Attributes:
        features: the number of features.
        k: active features of an activation; for BatchTopK, their mean.
        gate: "batchtopk" or "topk".
        batches: the number of batches.
        learning_rate: of Adam, after a warm-up of `warmup` batches; it falls linearly to 0 in the last third.
        dead_after: a feature is dead while it was not active for so many tokens.
        auxiliary: the weight of the loss of dead features (Gao et al.: 1/32).
        half: whether the products of the encoder are computed in bfloat16, which is several times as fast on many CPUs
            and GPUs; all else, and the weights, are float32.
        save_every: batches between two saved states.
        seed: decides the initial weights.

    Errors: WorkbenchError for a setting below its least value.
    """

    features: int = 2048
    k: int = 16
    gate: GateName = "batchtopk"
    batches: int = 1600
    learning_rate: float = 3e-3
    warmup: int = 50
    dead_after: int = 200_000
    auxiliary: float = 1 / 32
    half: bool = False
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.gate not in ("topk", "batchtopk"):
            raise WorkbenchError(f"no training for {self.gate!r}; choose topk or batchtopk")
        least = {"features": 1, "k": 1, "batches": 1, "save_every": 1, "dead_after": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise WorkbenchError(f"{name} is {getattr(self, name)}; it should be at least {low}")
        if self.k > self.features:
            raise WorkbenchError(f"k is {self.k}, but there are {self.features} features; k is at most that number")
        if not self.learning_rate > 0 or not self.auxiliary >= 0:
            raise WorkbenchError(f"learning_rate={self.learning_rate}, auxiliary={self.auxiliary}: must be above 0")

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        left = 3 * (self.batches - step) / self.batches
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup), left)


@dataclass(frozen=True)
class Scaling:
    """The scaling of the activations of each source before training: (x − mean) / size.

    Attributes:
        mean: source d_model.
        size: source 1, the root of the mean squared norm of x − mean, over the root of the width.
    """

    mean: Tensor
    size: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Scaling":
        """The scaling for activations x of the shape row source d_model, with mean and size over the rows."""
        mean = x.mean(0)
        size = (x - mean).square().mean((0, 2)).sqrt()[:, None].clamp_min(1e-8)
        return cls(mean, size)

    def __call__(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.size).flatten(1)


class _Trainer:
    """The weights and everything else that changes during training; `state` is all of it."""

    def __init__(self, source: ActivationSource, settings: TrainingSettings) -> None:
        self.source, self.settings = source, settings
        first = [source.batch(number) for number in range(FIRST)]
        read, written = (torch.cat([getattr(one, name) for one in first]) for name in ("read", "written"))
        self.reading, self.writing = Scaling.of(read), Scaling.of(written)
        self.device = read.device
        self.step, self.variance = 0, float(self.writing(written).square().sum(1).mean())
        self.weights = self._initial(read[0].numel(), written[0].numel())
        self.adam = torch.optim.Adam(self.weights.values(), lr=settings.learning_rate)
        self.silent = torch.zeros(
            settings.features, dtype=torch.long, device=self.device
        )  # tokens since each feature was active

    def _initial(self, d_read: int, d_write: int) -> dict[str, Tensor]:
        n, sources = self.settings.features, len(self.source.checkpoints)
        generator = torch.Generator().manual_seed(self.settings.seed)

        def directions(width: int) -> Tensor:
            """feature width: random, the same in all sources, of norm 1 together."""
            one = torch.randn(n, width // sources, generator=generator)
            return F.normalize(one.repeat(1, sources), dim=1)

        decoder = directions(d_write)
        encoder = decoder.T if self._is_centred else directions(d_read).T
        made = (encoder.clone(), torch.zeros(n), decoder, torch.zeros(d_write))
        return {name: tensor.to(self.device).requires_grad_() for name, tensor in zip(PARAMETERS, made, strict=True)}

    def advance(self) -> None:
        """One batch."""
        batch = self.source.batch(self.step)
        x, y = self.reading(batch.read), self.writing(batch.written)
        w = self.weights
        pre = self._pre(x)
        indices, values, starts = self._selected(pre)
        made = F.embedding_bag(indices, w["decoder"], starts, per_sample_weights=values, mode="sum")
        error = y - made - w["decoder_bias"]
        loss = error.square().sum(1).mean() / self.variance + self._auxiliary(pre, error.detach())
        self.adam.zero_grad()
        loss.backward()
        self._update()
        self.silent += len(x)
        self.silent[indices] = 0
        self.step += 1

    def _pre(self, x: Tensor) -> Tensor:
        """Pre-activations: row feature, float32."""
        w, dtype = self.weights, torch.bfloat16 if self.settings.half else torch.float32
        centred = x - w["decoder_bias"] if self._is_centred else x
        return (centred.to(dtype) @ w["encoder"].to(dtype)).float() + w["encoder_bias"]

    @property
    def _is_centred(self) -> bool:
        return self.source.reads == self.source.writes

    def _selected(self, pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The active features of all rows one after the other, their values, and where each row starts."""
        k, is_batch = self.settings.k, self.settings.gate == "batchtopk"
        top = pre.topk(min(SLOTS * k, pre.shape[1]) if is_batch else k, dim=1, sorted=False)
        values, least = top.values.detach(), torch.tensor(0.0)
        if is_batch:
            flat = values.flatten()
            least = flat.kthvalue(max(1, len(flat) - k * len(pre) + 1)).values
        active = (values > 0) & (values >= least)
        counts = active.sum(1)
        return top.indices[active], top.values[active], counts.cumsum(0) - counts

    def _auxiliary(self, pre: Tensor, error: Tensor) -> Tensor | float:
        """AuxK: the loss of the reconstruction of the error by the dead features with the largest pre-activations."""
        dead = (self.silent > self.settings.dead_after).nonzero()[:, 0]
        if not len(dead) or not self.settings.auxiliary:
            return 0.0
        wanted = error.shape[1] // 2
        top = pre[:, dead].topk(min(wanted, len(dead)), dim=1, sorted=False)
        made = F.embedding_bag(dead[top.indices], self.weights["decoder"], per_sample_weights=top.values, mode="sum")
        share = min(1.0, len(dead) / wanted)
        unexplained = error.square().sum(1).mean()
        return self.settings.auxiliary * share * (error - made).square().sum(1).mean() / unexplained

    @torch.no_grad()
    def _update(self) -> None:
        """A step of Adam that keeps the norms of the decoder's rows."""
        decoder = self.weights["decoder"]
        assert decoder.grad is not None
        decoder.grad -= (decoder.grad * decoder).sum(1, keepdim=True) * decoder
        for group in self.adam.param_groups:
            group["lr"] = self.settings.rate(self.step)
        self.adam.step()
        decoder.copy_(F.normalize(decoder, dim=1))

    def state(self) -> dict[str, Any]:
        """Everything that changes during training, for `restore`."""
        weights = {name: tensor.detach() for name, tensor in self.weights.items()}
        return {"step": self.step, "weights": weights, "adam": self.adam.state_dict(), "silent": self.silent}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        self.step, self.silent = int(state["step"]), state["silent"].to(self.device)
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(state["weights"][name])
        self.adam.load_state_dict(state["adam"])

    @torch.no_grad()
    def dictionary(self) -> Dictionary:
        """The dictionary that reads and writes activations as they are.

        A feature's activation is in the unit of the activations where that keeps the order of features: then the rows
        of the decoder have norm 1.
        """
        e, b, d, bias = (self.weights[name].detach().clone() for name in PARAMETERS)
        read_size, write_size = (scaling.size for scaling in (self.reading, self.writing))
        sources = len(read_size)
        e_raw = (e.unflatten(0, (sources, -1)) / read_size[..., None]).flatten(0, 1)
        shift = self.reading.mean.flatten()
        b_raw = b - shift @ e_raw
        threshold = self._threshold() if self.settings.gate == "batchtopk" else None
        d_raw = (d.unflatten(1, (sources, -1)) * write_size).flatten(1)
        bias_raw = (bias.unflatten(0, (sources, -1)) * write_size + self.writing.mean).flatten()
        if self._is_centred:  # the bias that is subtracted is put into the encoder's own
            b_raw = b - (bias.unflatten(0, (sources, -1)) * read_size + self.reading.mean).flatten() @ e_raw
        unit = float(write_size[0]) if sources == 1 else 1.0
        return Dictionary(
            e_raw * unit,
            b_raw * unit,
            d_raw / unit,
            bias_raw,
            Gate(self.settings.gate, self.settings.k, None if threshold is None else threshold * unit),
            self.source.reads,
            self.source.writes,
            sources=self.source.checkpoints if sources > 1 else (),
            model=self.source.checkpoints[0] if sources == 1 else "",
            family=self.source.family,
            provenance={
                "settings": asdict(self.settings),
                **self.source.identity,
                "sizes": [round(float(size), 6) for size in write_size.flatten()],
            },
        )

    def _threshold(self) -> Tensor:
        """The pre-activation above which k features are active on average, over the last batches."""
        values = []
        for number in range(max(0, self.step - FIRST), max(self.step, 1)):
            pre = self._pre(self.reading(self.source.batch(number).read))
            values.append(F.relu(pre.topk(min(SLOTS * self.settings.k, pre.shape[1]), dim=1).values))
        rows, flat = sum(map(len, values)), torch.cat([one.flatten() for one in values])
        kept = min(len(flat) - 1, self.settings.k * rows)
        return flat.sort(descending=True).values[kept]


def train(
    source: ActivationSource,
    settings: TrainingSettings | None = None,
    folder: str | Path | None = None,
    *,
    progress: Progress | None = None,
) -> Dictionary:
    """A dictionary trained on activations: an SAE, a transcoder if the source writes another site than it reads, or a
    crosscoder if it has several checkpoints.

    With the same source and settings, the weights are the same, bit for bit, on the same machine and number of threads;
    also if the training was interrupted.

    Args:
        source: the activations.
        settings: how to train.
        folder: where the state is saved every `save_every` batches; an interrupted training resumes there. None:
            nowhere.
        progress: called after each batch.

    Errors: WorkbenchError if the folder holds another training, with what differs; if it cannot be written.
    """
    settings = settings or TrainingSettings()
    trainer = _Trainer(source, settings)
    place = None if folder is None else Path(folder)
    if place is not None:
        _agree(place, _plan_of(source, settings))
        if (place / STATE).exists():
            trainer.restore(_read_state(place / STATE))
    while trainer.step < settings.batches:
        report(progress, trainer.step / settings.batches, "training")
        trainer.advance()
        if place is not None and (trainer.step % settings.save_every == 0 or trainer.step == settings.batches):
            with output_file(place / STATE) as file:
                torch.save(trainer.state(), file)
    report(progress, 1.0, "training")
    return trainer.dictionary().to("cpu")


def _plan_of(source: ActivationSource, settings: TrainingSettings) -> dict[str, Any]:
    where = {"reads": source.reads, "writes": source.writes, "checkpoints": list(source.checkpoints)}
    changing = ("save_every",)
    return {**where, **source.identity, **{n: v for n, v in asdict(settings).items() if n not in changing}}


def _agree(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan, or compare it with the one of the folder. Errors: WorkbenchError if they differ."""
    path = folder / PLAN
    if not path.exists():
        with output_file(path, make_folder=True) as file:
            file.write(json.dumps(plan, indent=1).encode())
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name, value in plan.items() if there.get(name) != value]
    except (OSError, ValueError, AttributeError) as error:
        raise WorkbenchError(f"{path} is damaged: {reason(error)}") from error
    if other:
        said = "; ".join(f"{name} {there.get(name)!r}, not {plan[name]!r}" for name in other[:3])
        raise WorkbenchError(f"{folder} holds another training: {said}; give another folder")


def _read_state(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        assert isinstance(found, dict)
    except (OSError, RuntimeError, ValueError, EOFError, AssertionError, pickle.UnpicklingError) as error:
        raise WorkbenchError(f"{path} is damaged: {reason(error)}; delete it to train from the start") from error
    return found
