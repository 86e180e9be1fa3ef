"""Attention arithmetic: selected rows and streamed statistics equal those of the whole pattern, at limited cost."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache
from transformers.initialization import no_init_weights

from hooks import Capture, HeadStatistics, OlmoConfig, OlmoForCausalLM, attention, edits

LONG = 150  # more than one chunk of query rows
MANY = 4096  # tokens of which one pattern takes more than a whole pass


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5, equal_nan=True)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


@pytest.fixture
def parts() -> tuple[Tensor, Tensor, Tensor]:
    """Random q (batch head query d_head), k and v (batch kv_head key d_head)."""
    generator = torch.Generator().manual_seed(0)
    return tuple(2 * torch.randn(2, heads, LONG, 8, generator=generator) for heads in (4, 2, 2))


def naive(q: Tensor, k: Tensor, visible: Tensor) -> Tensor:
    """The pattern by its definition: visible is broadcast to batch head query key."""
    products = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT * q.shape[-1] ** -0.5
    return products.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num(0.0)


def masks() -> dict[str, tuple[Tensor | None, Tensor]]:
    """Masks in the kernels' forms, each with the keys that are visible to each query."""
    causal = torch.ones(LONG, LONG, dtype=torch.bool).tril()
    window = causal & ~causal.tril(-4)
    padding = (causal & (torch.arange(LONG) >= torch.tensor([0, 6])[:, None, None]))[:, None]
    biases = torch.zeros(1, 1, LONG, LONG).masked_fill(~window, torch.finfo(torch.float32).min)
    return {
        "causal": (None, causal),
        "window": (window[None, None], window),
        "padding": (padding, padding),
        "numbers to add": (biases, window),
    }


@pytest.mark.parametrize("kind", masks())
def test_chosen_rows_are_rows_of_the_whole(parts, kind):
    (q, k, _), (mask, visible) = parts, masks()[kind]
    whole = naive(q, k, visible)
    assert_close(attention.pattern(attention.QK(q, k, mask, 8**-0.5)), whole)
    for rows in ([149], [0], [5, 2, 131, 3, 17, 149, 1], list(range(LONG))):
        assert_close(attention.pattern(attention.QK(q, k, mask, 8**-0.5), rows), whole[:, :, rows])
        scores = attention.scores(attention.QK(q, k, mask, 8**-0.5), rows)
        assert scores.shape == (2, 4, len(rows), LONG)
        assert_close(attention.softmax(scores), whole[:, :, rows])


@pytest.mark.parametrize("kind", masks())
def test_explicit_attention_is_the_fused_kernel(parts, kind):
    (q, k, v), (mask, visible) = parts, masks()[kind]
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, visible, enable_gqa=True)
    z = attention.weigh(attention.pattern(attention.QK(q, k, mask, 8**-0.5)), v)
    assert_close(z, fused.transpose(1, 2))


def test_a_row_that_sees_nothing_holds_zeros_and_has_a_gradient(parts):
    mask, _ = masks()["padding"]
    q, k = parts[0].requires_grad_(), parts[1].requires_grad_()
    weights = attention.pattern(attention.QK(q, k, mask, 8**-0.5))
    assert not weights[1, :, :6].any()
    weights.square().sum().backward()
    assert q.grad.isfinite().all()
    assert k.grad.isfinite().all()
    assert q.grad.any()


# Statistics


def naive_statistics(pattern: Tensor, positions: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Each statistic by its definition, query by query, from a whole pattern (batch head query key)."""
    keys = torch.arange(pattern.shape[-1])
    found = {"entropy": [], "previous": [], "first": [], "self": [], "distance": [], "target": []}
    for row, position in enumerate(positions.tolist()):
        weights = pattern[:, :, row]  # batch head key
        found["entropy"].append(-(weights * weights.clamp(min=1e-30).log()).sum(-1))
        found["previous"].append(weights[..., position - 1] if position else torch.full(weights.shape[:2], torch.nan))
        found["first"].append(weights[..., 0])
        found["self"].append(weights[..., position])
        found["distance"].append((weights * (position - keys)).sum(-1))
        aim = target[:, position, None, None].expand(-1, pattern.shape[1], 1)
        found["target"].append(weights.gather(-1, aim.clamp(min=0)).masked_fill(aim < 0, torch.nan)[..., 0])
    return {name: torch.stack(rows, -1) for name, rows in found.items()}


@pytest.fixture
def text() -> Tensor:
    """A text of 150 tokens drawn from ten different ones, so that tokens repeat: batch pos."""
    return torch.randint(1, 11, (2, LONG), generator=torch.Generator().manual_seed(4))


@pytest.fixture
def target(text) -> Tensor:
    """The key after the last earlier occurrence of each query's token, where induction looks; -1 for none."""
    keys = torch.full_like(text, -1)
    for row, line in enumerate(text.tolist()):
        for query, token in enumerate(line):
            earlier = [key for key in range(query) if line[key] == token]
            keys[row, query] = earlier[-1] + 1 if earlier else -1
    return keys


def test_streamed_statistics_are_those_of_the_pattern(pair, text, target):
    statistics = HeadStatistics(text, targets={"target": target})
    patterns = pair.ours.run(text, capture="blocks.*.attn.pattern")
    streamed = pair.ours.run(text, capture=Capture("blocks.*.attn.pattern", reduce=statistics))
    same = (text[:, :, None] == text[:, None, :]) & torch.ones(LONG, LONG, dtype=torch.bool).tril(-1)
    for site in patterns:
        found = dict(zip(statistics.names, streamed[site], strict=True))
        for name, wanted in naive_statistics(patterns[site], torch.arange(LONG), target).items():
            assert found[name].shape == (2, 4, LONG)
            assert_close(found[name], wanted)
        duplicate = (patterns[site] * same[:, None]).sum(-1)
        assert_close(found["duplicate"].nan_to_num(0.0), duplicate)
        assert torch.equal(found["duplicate"].isnan(), ~same.any(-1)[:, None].expand(-1, 4, -1))


def test_statistics_of_some_heads_and_queries(pair, text, target):
    statistics = HeadStatistics(text, targets={"target": target})
    site, heads, queries = "blocks.2.attn.pattern", [3, 1], [-1, 0, 17]
    whole = pair.ours.run(text, capture=Capture(site, reduce=statistics))[site]
    part = pair.ours.run(text, capture=Capture(site, heads=heads, queries=queries, reduce=statistics))[site]
    assert_close(part, whole[:, :, heads][:, :, :, queries])


def test_statistics_with_left_padding(pair, padded):
    """Each text has the same statistics as without padding; the first token is the first real one."""
    tokens = padded.input_ids % 7 * padded.attention_mask  # repeated tokens; one of them is also the padding token
    site = "blocks.*.attn.pattern"
    statistics = HeadStatistics(tokens, attention_mask=padded.attention_mask)
    batch = pair.ours.run(tokens, padded.attention_mask, capture=Capture(site, reduce=statistics))
    for row, real in enumerate(padded.real):
        text = tokens[row, real][None]
        alone = pair.ours.run(text, capture=Capture(site, reduce=HeadStatistics(text)))
        for name in alone:
            found = batch[name][:, row][:, :, real]
            torch.testing.assert_close(found, alone[name][:, 0], rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("kind", ["whole", "windowed"])
def test_statistics_of_later_queries_with_a_cache(pair, text, target, kind):
    """A cache that keeps only the window of its sliding layers gives the same statistics."""
    statistics = HeadStatistics(text, targets={"target": target})
    capture = Capture("blocks.*.attn.pattern", reduce=statistics)
    whole = pair.ours.run(text, capture=capture)
    cache = DynamicCache(config=pair.ours.config if kind == "windowed" else None)
    pair.ours.run(text[:, :140], past_key_values=cache)
    rest = pair.ours.run(text[:, 140:], past_key_values=cache, capture=capture)
    for site in whole:
        assert_close(rest[site], whole[site][..., 140:])


def test_statistics_see_an_edited_pattern(model, text):
    def uniform(pattern: Tensor) -> Tensor:
        return torch.ones_like(pattern).tril() / torch.arange(1, LONG + 1)[:, None]

    site = "blocks.1.attn.pattern"
    statistics = HeadStatistics()
    run = model.run(text, capture=Capture(site, reduce=statistics), edits=[edits.apply(site, uniform)])
    entropy = run[site][statistics.names.index("entropy")]
    assert_close(entropy, torch.arange(1, LONG + 1).log().expand_as(entropy))


# Cost


@pytest.mark.parametrize(
    ("options", "share"), [({"queries": [-1]}, 1 / 600), ({"heads": [2]}, 1 / 4), ({"reduce": HeadStatistics()}, 1 / 4)]
)
def test_only_what_is_named_is_computed_and_held(model, text, options, share):
    """No operation makes a tensor larger than the selected rows or heads, or a chunk of rows for statistics."""
    text = text[:1].repeat(1, 4)  # 600 positions
    with Largest() as plain:
        model.run(text, logits_to_keep=1)
    with Largest() as looking:
        model.run(text, logits_to_keep=1, capture=Capture("blocks.*.attn.pattern", **options))
    assert looking.numel <= max(plain.numel, share * 4 * 600 * 600)


class Held(TorchDispatchMode):
    """Records the peak of the total bytes of all tensors that operations have made."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.storages = {key: held for key, held in self.storages.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return out


@pytest.fixture(scope="module")
def long_pass():
    """A function of taps: the peak memory of `MANY` tokens with them; 3 layers, 8 heads, d_model 512, without data."""
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 8, "hidden_size": 512, "intermediate_size": 2048}
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, no_init_weights():
        config = OlmoConfig(vocab_size=4096, max_position_embeddings=MANY, eos_token_id=None, **sizes)
        model, ids = OlmoForCausalLM(config).eval(), torch.zeros(1, MANY, dtype=torch.long)

    def peak(**taps):
        with fake, torch.no_grad(), Held() as held, model.tapped(**taps):
            model(input_ids=ids, attention_mask={"full_attention": None}, use_cache=False)
        return held.peak

    return peak


@pytest.fixture(scope="module")
def plain_peak(long_pass):
    return long_pass()


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"reduce": HeadStatistics()}, 0.0),
        ({"queries": [-1, 100]}, 0.0),
        ({"heads": [2]}, 1.1 / 8),
        ({}, 1.05),
    ],
    ids=["statistics", "rows", "one head", "one layer"],
)
def test_many_tokens_need_no_more_than_the_plain_pass_and_what_is_kept(long_pass, plain_peak, options, own):
    """The extra memory is a fraction of one pattern."""
    looking = long_pass(capture=Capture("blocks.1.attn.pattern", **options))
    assert looking <= 1.1 * plain_peak + own * 8 * MANY**2 * 4


@pytest.fixture
def kernels(monkeypatch) -> dict[str, int]:
    """How many times the fused kernel and the explicit softmax computed attention."""
    count = {"fused": 0, "explicit": 0}
    fused, explicit = torch.nn.functional.scaled_dot_product_attention, attention.softmax

    def count_fused(*args, **kwargs):
        count["fused"] += 1
        return fused(*args, **kwargs)

    def count_explicit(*args, **kwargs):
        count["explicit"] += 1
        return explicit(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", count_fused)
    monkeypatch.setattr(attention, "softmax", count_explicit)
    return count


NOBODY_LOOKS = [name for name in ("resid_post", "attn.q", "attn.rot_k", "attn.z", "attn.v", "attn_out", "mlp.post")]


def test_fused_attention_wherever_nobody_looks(model, tokens, kernels):
    model(tokens)
    model.run(tokens, capture=[f"blocks.*.{name}" for name in NOBODY_LOOKS], edits=[edits.zero("blocks.1.attn.z")])
    assert kernels == {"fused": 8, "explicit": 0}
    model.generate(tokens, max_new_tokens=3, do_sample=False, edits=[edits.scale("blocks.*.attn.q", 2.0)])
    assert kernels == {"fused": 8 + 3 * 4, "explicit": 0}


@pytest.mark.parametrize("name", ["scores", "pattern", "result"])
def test_one_layer_looked_at_leaves_the_others_fused(model, tokens, kernels, name):
    model.run(tokens, capture=f"blocks.2.attn.{name}")
    assert kernels["fused"] >= 3
    assert kernels["explicit"] <= 1
    before = kernels["explicit"]
    model.run(tokens, edits=[edits.scale(f"blocks.2.attn.{name}", 0.5)])
    assert kernels["explicit"] <= before + 2
    assert kernels["fused"] >= 6


def test_heads_results_are_computed_only_when_asked_for(model, tokens):
    size = 2 * 14 * 4 * 32
    with Largest() as plain:
        model.run(tokens, stop_at_layer=4)
    with Largest() as asked:
        model.run(tokens, stop_at_layer=4, capture="blocks.1.attn.result")
    assert plain.numel < size <= asked.numel
