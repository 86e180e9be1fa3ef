"""The sites: every activation in the forward pass that can be captured or edited, by name, in forward order.

Site names are TransformerLens's without ``hook_``, wherever the tensor is the same. TransformerLens's own spelling is
accepted wherever a site name is, and means the tensor that TransformerLens has under this name: for example,
`blocks.5.attn.hook_q`, the query before its norm, is `blocks.5.attn.q_raw` here. Shapes are given in words; these words
also determine the axes that `heads=` and `positions=` select from.
"""

import re
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from .errors import UnknownSite, WrongType

RESIDUAL = "batch pos d_model"
SCALE = "batch pos 1"
PER_QUERY = "batch pos head d_head"
PER_KEY = "batch pos kv_head d_head"
ATTENTION = "batch head query key"
NEURONS = "batch pos d_mlp"

HEADS = ("head", "kv_head")  # the axes that `heads=` selects from
POSITIONS = ("pos", "query")  # the axes that `positions=` selects from

BEFORE_BLOCKS = {"embed": RESIDUAL}
IN_BLOCK = {
    "resid_pre": RESIDUAL,
    "ln1.scale": SCALE,
    "attn_in": RESIDUAL,
    "attn.q_raw": PER_QUERY,
    "attn.k_raw": PER_KEY,
    "attn.v_raw": PER_KEY,
    "attn.q": PER_QUERY,
    "attn.k": PER_KEY,
    "attn.v": PER_KEY,
    "attn.rot_q": PER_QUERY,
    "attn.rot_k": PER_KEY,
    "attn.scores": ATTENTION,
    "attn.pattern": ATTENTION,
    "attn.z": PER_QUERY,
    "attn.result": "batch pos head d_model",
    "attn_out_raw": RESIDUAL,
    "attn_out": RESIDUAL,
    "resid_mid": RESIDUAL,
    "ln2.scale": SCALE,
    "mlp_in": RESIDUAL,
    "mlp.pre": NEURONS,
    "mlp.pre_linear": NEURONS,
    "mlp.post": NEURONS,
    "mlp_out_raw": RESIDUAL,
    "mlp_out": RESIDUAL,
    "resid_post": RESIDUAL,
}
AFTER_BLOCKS = {"ln_final.scale": SCALE, "ln_final.normalized": RESIDUAL, "logits": "batch pos vocab"}

_BLOCK_NAME = re.compile(r"blocks\.(\d+)\.(.+)")
_BLOCK_PATTERN = re.compile(r"(blocks\.[^.]*\.)?(.*)", re.DOTALL)


def post_norm(in_block: dict[str, str]) -> dict[str, str]:
    """The sites of a block in the forward order of OLMo 2 and 3, where a norm follows each sublayer."""
    order = [name for name in in_block if name not in ("ln1.scale", "attn.result", "ln2.scale")]
    after = order.index("attn_out_raw") + 1
    order[after:after] = ["ln1.scale", "attn.result"]
    order.insert(order.index("mlp_out"), "ln2.scale")
    return {name: in_block[name] for name in order}


# TransformerLens's names (4.3, and HookedTransformer before it) -> our names, for names that differ from ours in more
# than `hook_` before the last word. The norms of OLMo 2 and 3 are ln1_post and ln2_post in TransformerLens 4.3, and ln1
# and ln2 in HookedTransformer.
THEIRS = {
    "hook_in": "resid_pre",
    "hook_out": "resid_post",
    "attn.hook_in": "attn_in",
    "attn.hook_q": "attn.q_raw",
    "attn.hook_k": "attn.k_raw",
    "attn.hook_v": "attn.v_raw",
    "attn.q.hook_out": "attn.q_raw",
    "attn.k.hook_out": "attn.k_raw",
    "attn.v.hook_out": "attn.v_raw",
    "attn.hook_attn_scores": "attn.scores",
    "attn.o.hook_in": "attn.z",
    "attn.o.hook_out": "attn_out_raw",
    "attn.hook_out": "attn_out_raw",
    "mlp.hook_in": "mlp_in",
    "mlp.gate.hook_out": "mlp.pre",
    "mlp.in.hook_out": "mlp.pre_linear",
    "mlp.out.hook_in": "mlp.post",
    "mlp.out.hook_out": "mlp_out_raw",
    "mlp.hook_out": "mlp_out_raw",
}
THEIRS_NORM_FIRST = {
    "ln1.hook_normalized": "attn_in",
    "ln1.hook_out": "attn_in",
    "ln2.hook_normalized": "mlp_in",
    "ln2.hook_out": "mlp_in",
}
THEIRS_POST_NORM = {
    "attn.q_norm.hook_in": "attn.q_raw",
    "attn.q_norm.hook_out": "attn.q",
    "attn.hook_q_normed": "attn.q",
    "attn.k_norm.hook_in": "attn.k_raw",
    "attn.k_norm.hook_out": "attn.k",
    "attn.hook_k_normed": "attn.k",
    "ln1_post.hook_in": "attn_out_raw",
    "ln1_post.hook_scale": "ln1.scale",
    "ln1_post.hook_out": "attn_out",
    "ln2_post.hook_in": "mlp_out_raw",
    "ln2_post.hook_scale": "ln2.scale",
    "ln2_post.hook_out": "mlp_out",
}
THEIRS_OUTSIDE = {
    "embed.hook_out": "embed",
    "ln_final.hook_out": "ln_final.normalized",
    "unembed.hook_in": "ln_final.normalized",
    "unembed.hook_out": "logits",
    "hook_unembed": "logits",
}

# TransformerLens's names for tensors that no site holds, or that an edit here could not change alone.
_INPUTS = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")
_COPIES = (*_INPUTS, *(f"attn.{name}" for name in _INPUTS))
REFUSED_NORM_FIRST = {
    **dict.fromkeys(
        _COPIES,
        "one copy of the residual stream for each head, before the norm; use '{block}resid_pre' (the stream itself) "
        "or '{block}attn_in' (the input of attention, after the norm)",
    ),
    "ln1.hook_in": "the input of the norm, separate from the residual stream; use '{block}resid_pre' (the stream "
    "itself) or '{block}attn_in' (after the norm)",
    **dict.fromkeys(
        ("ln2.hook_in", "hook_mlp_in"),
        "the input of the norm, separate from the residual stream; use '{block}resid_mid' (the stream itself) "
        "or '{block}mlp_in' (after the norm)",
    ),
}
REFUSED_POST_NORM = {
    **dict.fromkeys(_COPIES, "one copy of the attention input for each head; use '{block}attn_in' (a single copy)"),
    **dict.fromkeys(
        ("ln1.hook_normalized", "ln1_post.hook_normalized"),
        "the output of the norm before its weight is applied; use '{block}attn_out' (after the weight)",
    ),
    **dict.fromkeys(
        ("ln2.hook_normalized", "ln2_post.hook_normalized"),
        "the output of the norm before its weight is applied; use '{block}mlp_out' (after the weight)",
    ),
    "ln_final.hook_normalized": "the output of the norm before its weight is applied; use 'ln_final.normalized' "
    "(after the weight, the input of the unembedding)",
    "attn.hook_result": "the output of each head before the norm that follows attention; use '{block}attn.result' "
    "(after the norm: what each head adds to the residual stream) or '{block}attn_out_raw' (before the norm: the sum "
    "over heads)",
}


def hooked(name: str) -> str:
    """A name with `hook_` before its last word, as TransformerLens writes it."""
    head, dot, last = name.rpartition(".")
    return f"{head}{dot}hook_{last}"


class Sites(dict[str, str]):
    """Site name -> shape in words, for one model, in forward order.

    Args:
        model_name: the name of the family, for error messages.
        n_layers: the number of blocks.
        sizes: the lengths of the axes that do not depend on the text: head, kv_head, d_model, d_mlp, …
        norm_first: True if a norm precedes each sublayer (OLMo 1), False if it follows (OLMo 2 and 3).
        has_logits: whether the model has an unembedding.
    """

    def __init__(
        self, model_name: str, n_layers: int, sizes: dict[str, int], norm_first: bool, has_logits: bool
    ) -> None:
        self.model_name = model_name
        self.n_layers = n_layers
        self.sizes = sizes
        self.norm_first = norm_first
        self.has_logits = has_logits
        in_block = IN_BLOCK if norm_first else post_norm(IN_BLOCK)
        after = {name: shape for name, shape in AFTER_BLOCKS.items() if has_logits or name != "logits"}
        blocks = {f"blocks.{layer}.{name}": shape for layer in range(n_layers) for name, shape in in_block.items()}
        super().__init__({**BEFORE_BLOCKS, **blocks, **after})

    @property
    def made_of(self) -> dict[str, Any]:
        """The constructor arguments of these sites."""
        return {name: getattr(self, name) for name in ("model_name", "n_layers", "sizes", "norm_first", "has_logits")}

    def match(self, pattern: str) -> list[str]:
        """The sites that a name or glob matches, in forward order.

        A pattern that contains `hook_` is matched with TransformerLens's names; names without a site here are skipped.

        Raises:
            UnknownSite: nothing matches; the message lists the choices. If TransformerLens has a tensor under this name
                that no site holds, the message names the nearest sites.
            WrongType: the pattern is not a string.
        """
        if not isinstance(pattern, str):
            raise WrongType(f"a site name must be a string, not {pattern!r}")
        if pattern in self:
            return [pattern]
        if "hook_" in pattern:
            found = {site for name, site in self._theirs.items() if fnmatchcase(name, pattern)}
            matched = [name for name in self if name in found]
        else:
            matched = [name for name in self if fnmatchcase(name, pattern)]
        if not matched:
            raise UnknownSite(self._refusal(pattern) or self._complaint(pattern))
        return matched

    def in_block(self, name: str) -> str:
        """Our spelling of a site's name within a block: `hook_resid_pre` -> `resid_pre`.

        Raises:
            UnknownSite: no site has this name, or it is TransformerLens's name of a tensor that no site holds.
        """
        found = name if name in IN_BLOCK else self._spelled.get(name)
        if found is None:
            choices = f"no site {name!r} in a block of this {self.model_name}; choices: {', '.join(IN_BLOCK)}"
            raise UnknownSite(self._refusal(name) or choices)
        return found

    @property
    def _spelled(self) -> dict[str, str]:
        """TransformerLens's name -> our name, for the sites within a block."""
        ours = {hooked(name): name for name in IN_BLOCK if hooked(name) not in self._refused}
        return ours | THEIRS | (THEIRS_NORM_FIRST if self.norm_first else THEIRS_POST_NORM)

    @property
    def _refused(self) -> dict[str, str]:
        """TransformerLens's name -> its meaning, for names that have no site in this family."""
        return REFUSED_NORM_FIRST if self.norm_first else REFUSED_POST_NORM

    @cached_property
    def _theirs(self) -> dict[str, str]:
        """TransformerLens's full name -> site, for all sites of this model."""
        outside = {hooked(name): name for name in (*BEFORE_BLOCKS, *AFTER_BLOCKS) if hooked(name) not in self._refused}
        in_blocks = {
            f"blocks.{layer}.{theirs}": f"blocks.{layer}.{ours}"
            for layer in range(self.n_layers)
            for theirs, ours in self._spelled.items()
        }
        last = f"blocks.{self.n_layers - 1}.resid_post"
        return outside | THEIRS_OUTSIDE | {"ln_final.hook_in": last} | in_blocks

    def _refusal(self, pattern: str) -> str | None:
        """The error message for a TransformerLens name that has no site here; None for any other name."""
        parts = _BLOCK_PATTERN.fullmatch(pattern)
        assert parts is not None
        block, name = parts.groups("")
        meant = next((meant for theirs, meant in self._refused.items() if fnmatchcase(theirs, name)), None)
        return None if meant is None else f"no site {pattern!r}: in TransformerLens it is {meant.format(block=block)}"

    def _complaint(self, pattern: str) -> str:
        choices = f"sites of a block: {', '.join(IN_BLOCK)}; others: {', '.join(n for n in self if not layer_of(n)[1])}"
        known = IN_BLOCK.keys() | self._spelled.keys()
        in_block = _BLOCK_NAME.fullmatch(pattern)
        if in_block and in_block[2] in known:
            return (
                f"no site {pattern!r}: this {self.model_name} has {self.n_layers} layers, "
                f"blocks.0 to blocks.{self.n_layers - 1}"
            )
        if pattern in known:
            return f"no site {pattern!r}; did you mean 'blocks.*.{pattern}' or one block, 'blocks.0.{pattern}'?"
        return f"no site {pattern!r} in this {self.model_name} with {self.n_layers} layers; {choices}"


def layer_of(site: str) -> tuple[int | None, str]:
    """The block of a site and its name in this block: `blocks.5.attn.q` -> (5, "attn.q"); `embed` -> (None, "")."""
    match = _BLOCK_NAME.fullmatch(site)
    return (int(match[1]), match[2]) if match else (None, "")


def axis_of(shape: str, *names: str) -> int | None:
    """The index of the first axis in a shape in words whose name is one of `names`; None if there is none."""
    words = shape.split()
    return next((index for index, word in enumerate(words) if word in names), None)


def position_axis(shape: str) -> int:
    """The index of the position axis in a shape in words; every site has this axis."""
    axis = axis_of(shape, *POSITIONS)
    assert axis is not None, shape
    return axis
