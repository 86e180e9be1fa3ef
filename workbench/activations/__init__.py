"""Activations of a set of texts on disk: `record` writes them, `Activations` reads them as memory maps.

    from workbench.activations import Activations, record

    stored = record(model, texts, "blocks.2.resid_post", "activations/", checkpoint="tiny-olmo")
    stored["blocks.2.resid_post"][10:20]            # row d_model, read from the disk
    for batch in stored.batches(4096, seed=0):      # all rows in random order, for training
        batch["blocks.2.resid_post"]

A folder holds `index.json` (what was recorded, of which checkpoint and texts, with which versions), `texts.safetensors`
(token ids) and the activations in shards `00000.safetensors`, …, which any reader of safetensors can open. A shard is
written completely or not at all and carries a digest of its bytes, so `record` with the same arguments goes on after it
was stopped, and makes a damaged shard again.
"""

from workbench.activations.reading import Activations
from workbench.activations.recording import record

__all__ = ["Activations", "record"]
