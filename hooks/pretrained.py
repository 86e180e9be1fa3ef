"""What transformers reads from a model class, and loading in several threads."""

import threading
from typing import Self

from .run import Hookable

_LOADING = threading.RLock()


class Pretrained(Hookable):
    """The feature flags that transformers reads, and `from_pretrained` under a lock."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, *args: object, **kwargs: object) -> Self:
        """transformers' `from_pretrained` under a lock, so that several threads can load models safely.

        transformers replaces its own methods while it loads a model. Two threads that load at the same time could leave
        `tie_weights` replaced permanently; every tied model loaded afterwards would then lack its unembedding.
        """
        with _LOADING:
            return super().from_pretrained(*args, **kwargs)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """True. The default in transformers searches the source of this file for transformers' own names instead."""
        return True
