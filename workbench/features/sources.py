"""The sources of activations on which a dictionary is trained: running models, or a recording on disk.

Batch number i of a source depends only on its arguments and i, so a resumed training gives the same weights as one that
was never interrupted.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.products import fast_products
from workbench.activations import Activations
from workbench.activations.recording import weights_digest
from workbench.activations.shards import digest
from workbench.analyses.support.arguments import texts_for
from workbench.errors import WorkbenchError
from workbench.texts import TextsLike


class ReadAndWritten(NamedTuple):
    """Activations of the same tokens at the site that is read and the one that is written.

    Both are row source d_model, float32; the source axis has one entry for each checkpoint. Training runs on their
    device.
    """

    read: Tensor
    written: Tensor


class ActivationSource(Protocol):
    """Batches of activations.

    Attributes:
        reads, writes: the sites.
        checkpoints: the ids of the models, in order.
        family: the `model_type` of the models; "" if unknown.
        identity: digests of the weights and texts that the activations are of.
    """

    reads: str
    writes: str
    checkpoints: tuple[str, ...]
    family: str
    identity: Mapping[str, object]

    def batch(self, number: int) -> ReadAndWritten:
        """Batch number 0, 1, 2, …, without an end: after a round over all texts, the next round has another order."""
        ...


class Streamed:
    """Activations of models that run over texts, about `batch_tokens` tokens in a batch.

        Streamed({"tiny-olmo@step6000": model}, texts, "blocks.2.resid_post")
        Streamed({"tiny-olmo@step6000": model}, texts, "blocks.2.mlp_in", "blocks.2.mlp_out")
        Streamed({id: load(id)[0] for id in ids}, texts, "blocks.2.resid_post")      # for a crosscoder

    Texts of equal length run together; give many texts of one length (rows of 128 tokens), so that batches are alike.
    With `keep`, activations are kept in memory in float16 for the next round. The batches of the first round then have
    this precision too.

    Errors: WorkbenchError for no models, or models of different families; those of hooks for a site.
    """

    def __init__(
        self,
        models: Mapping[str, OlmoForCausalLM],
        texts: TextsLike,
        reads: str,
        writes: str | None = None,
        *,
        batch_tokens: int = 2048,
        seed: int = 0,
        keep: bool = False,
    ) -> None:
        if not models:
            raise WorkbenchError("no models are given; name at least one checkpoint")
        self.models = list(models.values())
        self.checkpoints: tuple[str, ...] = tuple(models)
        families = {model.config.model_type for model in self.models}
        if len(families) > 1:
            raise WorkbenchError(f"the models are of different families: {', '.join(sorted(families))}")
        [self.family] = families
        self.reads, self.writes = (self._site(site) for site in (reads, writes or reads))
        self.texts = texts_for(self.models[0], texts)
        self.seed = seed
        self.batches = list(self.texts.batches(batch_tokens))
        self.kept: dict[int, ReadAndWritten] | None = {} if keep else None
        self.identity: Mapping[str, object] = {
            "weights": [weights_digest(model) for model in self.models],
            "texts": digest({"ids": self.texts.ids.cpu(), "mask": self.texts.mask.cpu()}),
            "batch_tokens": batch_tokens,
            "order": seed,
            **({"kept": "float16"} if keep else {}),
        }

    def _site(self, name: str) -> str:
        names = self.models[0].sites.match(name)
        if len(names) > 1 or not self.models[0].sites[names[0]].startswith("batch pos "):
            raise WorkbenchError(f"{name} is not one site with an activation for each token")
        return names[0]

    def batch(self, number: int) -> ReadAndWritten:
        """Batch number 0, 1, 2, …, run now, or kept from an earlier round."""
        place = _shuffled_place(number, len(self.batches), self.seed)
        if self.kept is None:
            return self._run(place)
        if place not in self.kept:
            self.kept[place] = ReadAndWritten(*(one.half() for one in self._run(place)))
        return ReadAndWritten(*(one.float() for one in self.kept[place]))

    @torch.no_grad()
    @fast_products()
    def _run(self, place: int) -> ReadAndWritten:
        ids = self.batches[place].ids
        sites = list(dict.fromkeys((self.reads, self.writes)))
        runs = [model.run(ids.to(model.device), capture=sites, captures_only=True) for model in self.models]
        read, written = (
            torch.stack([run[site].flatten(2).flatten(0, 1).float().to(self.texts.ids.device) for run in runs], 1)
            for site in (self.reads, self.writes)
        )
        return ReadAndWritten(read, written)


class Stored:
    """Activations of a recording, in random order.

    Errors: WorkbenchError for a site that was not recorded.
    """

    def __init__(
        self,
        activations: Activations,
        reads: str,
        writes: str | None = None,
        *,
        batch_tokens: int = 2048,
        seed: int = 0,
        family: str = "",
    ) -> None:
        self.reads, self.writes, self.family, self.seed = reads, writes or reads, family, seed
        for site in (self.reads, self.writes):
            if site not in activations:
                raise WorkbenchError(f"{site!r} was not recorded; {activations.folder} holds {', '.join(activations)}")
        self.activations, self.batch_tokens = activations, batch_tokens
        plan = activations.plan
        self.checkpoints: tuple[str, ...] = (plan.checkpoint,)
        self.identity: Mapping[str, object] = {
            "weights": [plan.weights],
            "texts": plan.texts,
            "batch_tokens": batch_tokens,
            "order": seed,
        }
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def batch(self, number: int) -> ReadAndWritten:
        """Batch number 0, 1, 2, …, read now."""
        in_epoch = max(1, self.activations.rows // self.batch_tokens)
        epoch, place = divmod(number, in_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(_seed(self.seed, epoch))
            self._order = epoch, torch.randperm(self.activations.rows, generator=generator)
        rows = self._order[1][place * self.batch_tokens : (place + 1) * self.batch_tokens].sort().values
        read = self.activations[self.reads][rows].flatten(1)[:, None].float()
        same = self.reads == self.writes
        written = read if same else self.activations[self.writes][rows].flatten(1)[:, None].float()
        return ReadAndWritten(read, written)


def _shuffled_place(number: int, count: int, seed: int) -> int:
    """Which of `count` things comes at a number: a new random order in each round."""
    epoch, place = divmod(number, count)
    return int(torch.randperm(count, generator=torch.Generator().manual_seed(_seed(seed, epoch)))[place])


def _seed(seed: int, epoch: int) -> int:
    return seed * 1_000_003 + epoch
