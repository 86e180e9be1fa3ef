"""The hookable OLMo: OLMo 1, 2 and 3 with a tap at every site. See `OlmoForCausalLM.run`."""

from transformers import Olmo2Config, Olmo3Config, OlmoConfig

from . import edits
from .attention import HeadStatistics
from .capture_and_edit import Capture, Edit
from .errors import HooksError
from .olmo import OlmoForCausalLM, OlmoModel
from .run import Run
from .stopping import stoppable

__all__ = [
    "Capture",
    "Edit",
    "HeadStatistics",
    "HooksError",
    "Olmo2Config",
    "Olmo3Config",
    "OlmoConfig",
    "OlmoForCausalLM",
    "OlmoModel",
    "Run",
    "edits",
    "stoppable",
]
