"""Fixtures: random tiny OLMos of all three families, alone or with transformers' own model of the same weights.

Every weight is random, including norm weights and biases, because ones and zeros could hide errors; and weights are
large enough that attention is far from uniform. `model` and `pair` are shared by all tests of a process: a test that
changes its model makes its own with `make_model` or `make_pair`.
"""

import logging
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from hooks import Olmo2Config, Olmo3Config, OlmoConfig, OlmoForCausalLM
from workbench.texts import Texts, as_texts

# One thread for each test process: two processes with two threads each on two cores mostly wait for each other.
torch.set_num_threads(1)

VOCAB = 99
PAD = 0
POSITIONS = 14

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "eos_token_id": None,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 1024}

FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "olmo": (OlmoConfig, transformers.OlmoForCausalLM, {}),
    "olmo2": (Olmo2Config, transformers.Olmo2ForCausalLM, {}),
    "olmo3": (
        Olmo3Config,
        transformers.Olmo3ForCausalLM,
        {
            "max_position_embeddings": 4096,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": YARN,
            },
        },
    ),
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo": ("olmo", {}),
    "olmo-gqa-tied": ("olmo", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "olmo-mqa-clip": ("olmo", {"num_key_value_heads": 1, "clip_qkv": 0.8}),
    "olmo-bias": ("olmo", {"attention_bias": True, "hidden_act": "gelu"}),
    "olmo2": ("olmo2", {}),
    "olmo2-gqa-bias": ("olmo2", {"num_key_value_heads": 2, "attention_bias": True}),
    "olmo2-mqa-tied": ("olmo2", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "olmo3": ("olmo3", {}),
    "olmo3-gqa-bias": ("olmo3", {"num_key_value_heads": 2, "attention_bias": True}),
    "olmo3-mqa-tied": ("olmo3", {"num_key_value_heads": 1, "tie_word_embeddings": True, "sliding_window": 4}),
}

GROUPED = pytest.mark.parametrize("case", ["olmo-gqa-tied", "olmo2-gqa-bias", "olmo3-gqa-bias"])
"""For a test of `pair` to which only the family and shared key-value heads matter."""

ONE_FAMILY = pytest.mark.parametrize("family", ["olmo3"])
"""For a test of `model` to which the family does not matter."""


@dataclass(frozen=True)
class Pair:
    """Our model and transformers' own with the same weights; theirs in `sdpa` and in `eager` attention."""

    ours: OlmoForCausalLM
    theirs: nn.Module
    eager: nn.Module


@dataclass(frozen=True)
class Padded:
    """A batch of three texts of different lengths, padded on the left; `real` is True where a token is."""

    input_ids: Tensor  # batch pos
    attention_mask: Tensor  # batch pos
    real: Tensor  # batch pos


def config_of(family: str, **options: Any) -> transformers.PretrainedConfig:
    """A fresh configuration of a tiny model; `options` override the sizes and the family's own options."""
    config_class, _, own = FAMILIES[family]
    return config_class(**deepcopy(SIZES | own | options))


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Random weights everywhere: norm weights around one, biases around zero, matrices at 1.5 / sqrt(fan in)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                spread = 1.0 if "embed" in name else 1.5 * parameter.shape[-1] ** -0.5
                parameter.copy_(spread * noise)
            else:
                parameter.copy_(0.3 * noise + (1.0 if "norm" in name else 0.0))


def build_model(family: str, seed: int = 0, **options: Any) -> OlmoForCausalLM:
    """Our model of one family with random weights, in evaluation mode."""
    with no_init_weights():  # they would be random too, and take as long as all the rest
        model = OlmoForCausalLM(config_of(family, **options)).eval()
    model.tie_weights()
    randomize(model, seed)
    return model


def build_pair(family: str, seed: int = 0, **options: Any) -> Pair:
    """Our model and transformers' two models with the same weights; all must have the same parameter names."""
    ours = build_model(family, seed, **options)
    their_class = FAMILIES[family][1]
    twins = []
    for attention in ("sdpa", "eager"):
        twin = their_class._from_config(config_of(family, **options), attn_implementation=attention).eval()
        twin.load_state_dict(ours.state_dict())
        twins.append(twin)
    return Pair(ours, *twins)


@cache
def shared_pair(case: str) -> Pair:
    family, options = CASES[case]
    return build_pair(family, **options)


@cache
def parts_of(case: str) -> tuple[list[nn.Module], list[nn.Parameter]]:
    """All modules and all parameters of a shared pair."""
    pair = shared_pair(case)
    models = (pair.ours, pair.theirs, pair.eager)
    return [part for model in models for part in model.modules()], [
        one for model in models for one in model.parameters()
    ]


def check_unchanged(case: str) -> None:
    """Check that a test did not change the attention or the mode of a shared pair; drop gradients that it left."""
    pair = shared_pair(case)
    modules, parameters = parts_of(case)
    for model, attention in ((pair.ours, "sdpa"), (pair.theirs, "sdpa"), (pair.eager, "eager")):
        assert model.config._attn_implementation == attention, "a test changed the attention of a shared model"
    assert not any(module.training for module in modules), "a test left a shared model in training mode"
    for parameter in parameters:
        parameter.grad = None


@pytest.fixture(scope="session")
def make_config() -> Callable[..., transformers.PretrainedConfig]:
    """`make_config(family, **options)`: a fresh tiny configuration."""
    return config_of


@pytest.fixture(scope="session")
def make_model() -> Callable[..., OlmoForCausalLM]:
    """`make_model(family, seed=0, **options)`: a fresh model with random weights."""
    return build_model


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., Pair]:
    """`make_pair(family, seed=0, **options)`: a fresh model and transformers' twins of it."""
    return build_pair


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> Iterator[OlmoForCausalLM]:
    """Our model of each family; shared, not to be changed."""
    yield shared_pair(family).ours
    check_unchanged(family)


@pytest.fixture
def pair(case: str) -> Iterator[Pair]:
    """Ours and theirs for each family and variant; shared, not to be changed."""
    yield shared_pair(case)
    check_unchanged(case)


@pytest.fixture(scope="session")
def tokens() -> Tensor:
    """Two random texts, without padding: batch pos."""
    return torch.randint(1, VOCAB, (2, POSITIONS), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def many_texts() -> Texts:
    """23 random texts of different lengths, 24 tokens in the first four and 175 in all."""
    generator = torch.Generator().manual_seed(3)
    lengths = [5, 9, 3, 7, *range(4, 12), *(6, 13) * 3, 8, 10, 4, 5, 7]
    return as_texts([torch.randint(1, VOCAB, (length,), generator=generator) for length in lengths])


@pytest.fixture(scope="session")
def other_tokens() -> Tensor:
    """Two other random texts of the same length: batch pos."""
    return torch.randint(1, VOCAB, (2, POSITIONS), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def padded() -> Padded:
    """Three texts of 14, 11 and 6 tokens, padded on the left."""
    input_ids = torch.randint(1, VOCAB, (3, POSITIONS), generator=torch.Generator().manual_seed(3))
    real = torch.arange(POSITIONS) >= torch.tensor([0, 3, 8])[:, None]
    return Padded(input_ids.where(real, torch.tensor(PAD)), real.long(), real)


@pytest.fixture(scope="session")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of one word a token: `pad w1 w2 … w98`."""
    vocabulary = {"pad": PAD} | {f"w{index}": index for index in range(1, VOCAB)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="pad"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="pad", padding_side="left")


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        """What a log file would hold."""
        return "\n".join(map(logging.Formatter().format, self.records))


@pytest.fixture
def logged() -> Iterator[Records]:
    """What the workbench logs from level INFO on.

    pytest's own `caplog` is switched off: in each phase of each test it adds handlers to the sixty loggers that torch
    and transformers keep to themselves, which takes as long as a quarter of all fixtures.
    """
    logger, handler = logging.getLogger("workbench"), Records()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


# Fixtures of the page. They import Gradio on use, because most tests do not need it.


@pytest.fixture(scope="module")
def bench(tmp_path_factory, make_model, tokenizer):
    """A bench over a small series; shared within a file."""
    from small_series import small_bench

    return small_bench(tmp_path_factory.mktemp("series"), make_model, tokenizer)


@pytest.fixture
def tab_request(bench):
    """What a tab is asked to show: a short prompt in the last checkpoint, with no token or head selected."""
    from small_series import PROMPT

    from workbench.page.session.requests import Query, Selection, TabRequest

    return TabRequest(Query(bench.default, PROMPT, 1), Selection())


# Fixtures of a small training text in place of that of the embedded series.


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache folder with the index of the planted training text; for `XDG_CACHE_HOME`."""
    import planted_cache

    folder = tmp_path_factory.mktemp("cache")
    planted_cache.put_in_cache(folder)
    return folder


@pytest.fixture
def index(cache, monkeypatch):
    """The index of the planted training text, which is also found by the name of the embedded series."""
    import planted_cache

    from workbench import corpus

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return corpus.open(planted_cache.CHECKPOINT)


@pytest.fixture(scope="session")
def replay():
    """The rows of a training on the planted text."""
    import planted_cache

    from workbench.corpus.replay import Replay

    return Replay.of(planted_cache.made().text.source(), planted_cache.RECIPE)
