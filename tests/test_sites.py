"""The sites: their names, order, shapes and accepted spellings."""

import re

import pytest
import torch

from hooks import edits
from hooks.errors import UnknownSite

BLOCK = {
    "resid_pre": "batch pos d_model",
    "ln1.scale": "batch pos 1",
    "attn_in": "batch pos d_model",
    "attn.q_raw": "batch pos head d_head",
    "attn.k_raw": "batch pos kv_head d_head",
    "attn.v_raw": "batch pos kv_head d_head",
    "attn.q": "batch pos head d_head",
    "attn.k": "batch pos kv_head d_head",
    "attn.v": "batch pos kv_head d_head",
    "attn.rot_q": "batch pos head d_head",
    "attn.rot_k": "batch pos kv_head d_head",
    "attn.scores": "batch head query key",
    "attn.pattern": "batch head query key",
    "attn.z": "batch pos head d_head",
    "attn.result": "batch pos head d_model",
    "attn_out_raw": "batch pos d_model",
    "attn_out": "batch pos d_model",
    "resid_mid": "batch pos d_model",
    "ln2.scale": "batch pos 1",
    "mlp_in": "batch pos d_model",
    "mlp.pre": "batch pos d_mlp",
    "mlp.pre_linear": "batch pos d_mlp",
    "mlp.post": "batch pos d_mlp",
    "mlp_out_raw": "batch pos d_model",
    "mlp_out": "batch pos d_model",
    "resid_post": "batch pos d_model",
}
LAYERS = range(4)
RAW = ("attn.q", "attn.k", "attn.v", "attn_out", "mlp_out")
SITES = {
    "embed": "batch pos d_model",
    **{f"blocks.{layer}.{name}": shape for layer in LAYERS for name, shape in BLOCK.items()},
    "ln_final.scale": "batch pos 1",
    "ln_final.normalized": "batch pos d_model",
    "logits": "batch pos vocab",
}
WORDS = {
    "batch": 2, "pos": 14, "query": 14, "key": 14, "1": 1,
    "d_model": 32, "d_head": 8, "d_mlp": 48, "head": 4, "vocab": 99,
}  # fmt: skip


def test_every_site_of_the_table_with_its_shape(model):
    """The order is that of the family: the norms of OLMo 2 and 3 come after their sublayers."""
    assert dict(model.sites) == SITES
    names = list(model.sites)
    after = model.config.model_type != "olmo"
    for norm, output, entry in (("ln1.scale", "attn_out", "attn_in"), ("ln2.scale", "mlp_out", "mlp_in")):
        scale = names.index(f"blocks.1.{norm}")
        assert (scale > names.index(f"blocks.1.{entry}")) == after
        assert scale < names.index(f"blocks.1.{output}")


def test_everything_is_captured_in_forward_order(family, pair, tokens):
    model = pair.ours
    run = model.run(tokens, capture="*")
    assert list(run) == list(model.sites)
    sizes = WORDS | {"kv_head": model.config.num_key_value_heads}
    for name in run:
        assert tuple(run[name].shape) == tuple(sizes[word] for word in model.sites[name].split()), name


def test_the_order_of_sites_is_the_order_of_the_forward_pass(model, tokens):
    """An edit at a later site does not change a captured site; an edit at an earlier site does."""
    names = list(model.sites)
    clean = model.run(tokens, capture="*")
    for index in range(0, len(names), 5):
        run = model.run(tokens, capture="*", edits=[edits.scale(names[index], 2.0)])
        before = [name for name in names[:index] if not run[name].equal(clean[name])]
        assert before == [], f"editing {names[index]} changed {before}"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("embed", ["embed"]),
        ("blocks.*.resid_post", [f"blocks.{layer}.resid_post" for layer in LAYERS]),
        ("blocks.2.attn.[qk]", ["blocks.2.attn.q", "blocks.2.attn.k"]),
        (
            "blocks.[13].mlp.p*",
            [f"blocks.{layer}.mlp.{name}" for layer in (1, 3) for name in ("pre", "pre_linear", "post")],
        ),
        ("blocks.?.ln1.scale", [f"blocks.{layer}.ln1.scale" for layer in LAYERS]),
        ("ln_final.*", ["ln_final.scale", "ln_final.normalized"]),
        (["logits", "embed", "blocks.1.attn_out"], ["embed", "blocks.1.attn_out", "logits"]),
        (["embed", "em*"], ["embed"]),
    ],
)
def test_names_and_globs(model, tokens, pattern, names):
    assert list(model.run(tokens, capture=pattern)) == names


# TransformerLens 4.3's names and our sites, in OLMo 1 and in OLMo 2 and 3; None where we refuse.
SPELLINGS = {
    "hook_embed": ("embed", "embed"),
    "blocks.1.hook_resid_pre": ("blocks.1.resid_pre", "blocks.1.resid_pre"),
    "blocks.1.hook_resid_mid": ("blocks.1.resid_mid", "blocks.1.resid_mid"),
    "blocks.1.hook_resid_post": ("blocks.1.resid_post", "blocks.1.resid_post"),
    "blocks.1.hook_attn_in": (None, None),
    "blocks.1.hook_q_input": (None, None),
    "blocks.1.hook_k_input": (None, None),
    "blocks.1.attn.hook_v_input": (None, None),
    "blocks.1.hook_attn_out": ("blocks.1.attn_out", "blocks.1.attn_out"),
    "blocks.1.hook_mlp_in": (None, "blocks.1.mlp_in"),
    "blocks.1.hook_mlp_out": ("blocks.1.mlp_out", "blocks.1.mlp_out"),
    "blocks.1.ln1.hook_scale": ("blocks.1.ln1.scale", "blocks.1.ln1.scale"),
    "blocks.1.ln1.hook_normalized": ("blocks.1.attn_in", None),
    "blocks.1.ln2.hook_scale": ("blocks.1.ln2.scale", "blocks.1.ln2.scale"),
    "blocks.1.ln2.hook_normalized": ("blocks.1.mlp_in", None),
    "blocks.1.ln1_post.hook_scale": (None, "blocks.1.ln1.scale"),
    "blocks.1.ln1_post.hook_normalized": (None, None),
    "blocks.1.ln1_post.hook_out": (None, "blocks.1.attn_out"),
    "blocks.1.ln2_post.hook_scale": (None, "blocks.1.ln2.scale"),
    "blocks.1.attn.hook_in": ("blocks.1.attn_in", "blocks.1.attn_in"),
    "blocks.1.attn.hook_q": ("blocks.1.attn.q_raw", "blocks.1.attn.q_raw"),
    "blocks.1.attn.hook_k": ("blocks.1.attn.k_raw", "blocks.1.attn.k_raw"),
    "blocks.1.attn.hook_v": ("blocks.1.attn.v_raw", "blocks.1.attn.v_raw"),
    "blocks.1.attn.hook_q_normed": (None, "blocks.1.attn.q"),
    "blocks.1.attn.hook_k_normed": (None, "blocks.1.attn.k"),
    "blocks.1.attn.hook_rot_q": ("blocks.1.attn.rot_q", "blocks.1.attn.rot_q"),
    "blocks.1.attn.hook_rot_k": ("blocks.1.attn.rot_k", "blocks.1.attn.rot_k"),
    "blocks.1.attn.hook_attn_scores": ("blocks.1.attn.scores", "blocks.1.attn.scores"),
    "blocks.1.attn.hook_scores": ("blocks.1.attn.scores", "blocks.1.attn.scores"),
    "blocks.1.attn.hook_pattern": ("blocks.1.attn.pattern", "blocks.1.attn.pattern"),
    "blocks.1.attn.hook_z": ("blocks.1.attn.z", "blocks.1.attn.z"),
    "blocks.1.attn.hook_result": ("blocks.1.attn.result", None),
    "blocks.1.attn.hook_out": ("blocks.1.attn_out_raw", "blocks.1.attn_out_raw"),
    "blocks.1.mlp.hook_in": ("blocks.1.mlp_in", "blocks.1.mlp_in"),
    "blocks.1.mlp.hook_pre": ("blocks.1.mlp.pre", "blocks.1.mlp.pre"),
    "blocks.1.mlp.hook_pre_linear": ("blocks.1.mlp.pre_linear", "blocks.1.mlp.pre_linear"),
    "blocks.1.mlp.hook_post": ("blocks.1.mlp.post", "blocks.1.mlp.post"),
    "blocks.1.mlp.hook_out": ("blocks.1.mlp_out_raw", "blocks.1.mlp_out_raw"),
    "ln_final.hook_scale": ("ln_final.scale", "ln_final.scale"),
    "ln_final.hook_normalized": ("ln_final.normalized", None),
    "ln_final.hook_in": ("blocks.3.resid_post", "blocks.3.resid_post"),
    "blocks.1.ln1.hook_in": (None, None),
    "hook_unembed": ("logits", "logits"),
}


@pytest.mark.parametrize("theirs", SPELLINGS)
def test_the_spelling_of_transformerlens(model, tokens, theirs):
    ours = SPELLINGS[theirs][model.config.model_type != "olmo"]
    if ours is None:
        with pytest.raises(UnknownSite):
            model.run(tokens, capture=theirs)
        with pytest.raises(UnknownSite):
            model.run(tokens, edits=[edits.zero(theirs)])
        return
    run = model.run(tokens, capture=theirs, edits=[edits.zero(theirs)])
    assert list(run) == [ours]
    assert run[theirs] is run[ours]
    assert theirs in run
    assert not run[ours].any()


def test_tensors_are_those_that_transformerlens_has_under_its_names(pair, tokens):
    """TransformerLens's definitions (`transformer_lens.model_bridge`), computed here from earlier sites."""
    model, first = pair.ours, pair.ours.config.model_type == "olmo"
    block, run = model.model.layers[1], model.run(tokens, capture="*")
    attention, mlp = block.self_attn, block.mlp
    read, before_mlp = (run[f"blocks.1.{name}"] for name in ("resid_pre", "resid_mid"))
    if first:
        read, before_mlp = block.input_layernorm(read), block.post_attention_layernorm(before_mlp)
    theirs = {
        **{f"attn.hook_{name}": getattr(attention, f"{name}_proj")(read) for name in "qkv"},
        "attn.hook_in": read,
        "attn.hook_out": attention.o_proj(run["blocks.1.attn.z"].flatten(2)),
        "mlp.hook_in": before_mlp,
        "mlp.hook_pre": mlp.gate_proj(before_mlp),
        "mlp.hook_out": mlp.down_proj(run["blocks.1.mlp.post"]),
    }
    if first:
        theirs |= {"ln1.hook_normalized": read, "ln2.hook_normalized": before_mlp}
    else:
        for name in "qk":
            theirs[f"attn.hook_{name}_normed"] = getattr(attention, f"{name}_norm")(theirs[f"attn.hook_{name}"])
        theirs["hook_attn_out"] = block.post_attention_layernorm(theirs["attn.hook_out"])
        theirs["hook_mlp_out"] = block.post_feedforward_layernorm(theirs["mlp.hook_out"])
    for name, wanted in theirs.items():
        found = run[f"blocks.1.{name}"]
        torch.testing.assert_close(found.reshape(wanted.shape), wanted.detach(), rtol=1e-5, atol=2e-5, msg=name)


@pytest.mark.parametrize(
    ("family", "theirs", "meant"),
    [
        ("olmo", "blocks.2.hook_attn_in", "blocks.2.resid_pre"),
        ("olmo", "blocks.2.hook_q_input", "blocks.2.attn_in"),
        ("olmo", "blocks.*.hook_mlp_in", "blocks.*.resid_mid"),
        ("olmo", "blocks.2.ln1.hook_in", "blocks.2.resid_pre"),
        ("olmo2", "blocks.2.hook_attn_in", "blocks.2.attn_in"),
        ("olmo2", "blocks.2.attn.hook_result", "blocks.2.attn_out_raw"),
        ("olmo2", "blocks.2.ln1_post.hook_normalized", "blocks.2.attn_out"),
        ("olmo3", "ln_final.hook_normalized", "ln_final.normalized"),
    ],
)
def test_a_refused_name_says_which_site_is_meant(make_model, tokens, family, theirs, meant):
    with pytest.raises(
        UnknownSite, match=re.escape(f"no site '{theirs}': in TransformerLens") + ".*" + re.escape(f"'{meant}'")
    ):
        make_model(family).run(tokens, capture=theirs)


def test_raw_sites_come_before_norms_and_clipping(pair, tokens):
    """An edit of a raw site goes through the norm or clipping that follows it; some sites of OLMo 1 have neither."""
    model, block = pair.ours, pair.ours.model.layers[1]
    tripled = [edits.scale(f"blocks.1.{name}_raw", 3.0) for name in RAW]
    run = model.run(tokens, capture="blocks.1.*", edits=tripled)
    for name in RAW:
        raw, after = run[f"blocks.1.{name}_raw"], run[f"blocks.1.{name}"]
        if model.config.model_type == "olmo":
            clip = model.config.clip_qkv if name.startswith("attn.") else None
            wanted = raw if clip is None else raw.clamp(-clip, clip)
        elif name == "attn.v":
            wanted = raw
        else:
            norm = {"attn.q": block.self_attn.q_norm, "attn.k": block.self_attn.k_norm}.get(name)
            norm = norm or (block.post_attention_layernorm if name == "attn_out" else block.post_feedforward_layernorm)
            wanted = norm(raw.flatten(2)).view_as(raw)
        torch.testing.assert_close(after, wanted.detach(), rtol=1e-5, atol=2e-5, msg=name)


def test_names_within_a_block_in_both_spellings(model):
    assert model.sites.in_block("hook_resid_pre") == model.sites.in_block("resid_pre") == "resid_pre"
    assert model.sites.in_block("attn.hook_q") == "attn.q_raw"
    with pytest.raises(UnknownSite, match="nonsense"):
        model.sites.in_block("nonsense")


def test_a_glob_in_the_spelling_of_transformerlens(model, tokens):
    run = model.run(tokens, capture="blocks.*.hook_resid_post")
    assert list(run) == [f"blocks.{layer}.resid_post" for layer in LAYERS]
    assert run.stack("hook_resid_post").equal(run.stack("resid_post"))


@pytest.mark.parametrize(
    ("wrong", "choices"),
    [
        ("blocks.9.mlp_out", "4 layers.*blocks.3"),
        ("blocks.4.attn.q", "4 layers.*blocks.3"),
        ("blocks.0.mlp", "4 layers.*resid_pre.*mlp.post.*ln_final.scale"),
        ("blocks.*.atn.q", "4 layers.*resid_pre"),
        ("resid_post", "blocks.*resid_post"),
        ("", "4 layers.*resid_pre"),
    ],
)
def test_a_wrong_site_names_itself_and_the_choices(model, tokens, wrong, choices):
    for options in ({"capture": wrong}, {"edits": [edits.zero(wrong)]}):
        with pytest.raises((KeyError, ValueError), match=choices) as error:
            model.run(tokens, **options)
        assert repr(wrong) in str(error.value)
