"""The sites: every place in the forward pass that can be read or changed, by name, in forward order.

Names are TransformerLens's without ``hook_``; its own spelling is understood wherever a name is taken
(`blocks.5.attn.hook_attn_scores` is `blocks.5.attn.scores`). Shapes are words; the axes that `heads=` and
`positions=` select are read off them.
"""

import re
from fnmatch import fnmatchcase

RESIDUAL = "batch pos d_model"
SCALE = "batch pos 1"
PER_QUERY = "batch pos head d_head"
PER_KEY = "batch pos kv_head d_head"
ATTENTION = "batch head query key"
NEURONS = "batch pos d_mlp"

HEADS = ("head", "kv_head")  # the axes that `heads=` selects from
POSITIONS = ("pos", "query")  # and those of `positions=`

BEFORE_BLOCKS = {"embed": RESIDUAL}
IN_BLOCK = {
    "resid_pre": RESIDUAL,
    "ln1.scale": SCALE,
    "attn_in": RESIDUAL,
    "attn.q": PER_QUERY,
    "attn.k": PER_KEY,
    "attn.v": PER_KEY,
    "attn.rot_q": PER_QUERY,
    "attn.rot_k": PER_KEY,
    "attn.scores": ATTENTION,
    "attn.pattern": ATTENTION,
    "attn.z": PER_QUERY,
    "attn.result": "batch pos head d_model",
    "attn_out": RESIDUAL,
    "resid_mid": RESIDUAL,
    "ln2.scale": SCALE,
    "mlp_in": RESIDUAL,
    "mlp.pre": NEURONS,
    "mlp.pre_linear": NEURONS,
    "mlp.post": NEURONS,
    "mlp_out": RESIDUAL,
    "resid_post": RESIDUAL,
}
AFTER_BLOCKS = {"ln_final.scale": SCALE, "ln_final.normalized": RESIDUAL, "logits": "batch pos vocab"}

_BLOCK_NAME = re.compile(r"blocks\.(\d+)\.(.+)")


class UnknownSite(KeyError):
    """A name or glob that matches no site. Its text is a sentence for people."""

    def __str__(self) -> str:
        return self.args[0]


def post_norm(in_block: dict[str, str]) -> dict[str, str]:
    """The sites of a block in the forward order of OLMo 2 and 3, where a norm follows its sublayer."""
    order = [name for name in in_block if name not in ("ln1.scale", "ln2.scale")]
    order.insert(order.index("attn.result"), "ln1.scale")
    order.insert(order.index("mlp_out"), "ln2.scale")
    return {name: in_block[name] for name in order}


class Sites(dict[str, str]):
    """Site name -> shape in words, for one model, in the order its forward pass reaches them.

    `sizes` gives the length of the axes that do not depend on the text: head, kv_head, d_model, d_mlp, …
    """

    def __init__(
        self, model_name: str, n_layers: int, sizes: dict[str, int], norm_first: bool, has_logits: bool
    ) -> None:
        self.model_name = model_name
        self.n_layers = n_layers
        self.sizes = sizes
        in_block = IN_BLOCK if norm_first else post_norm(IN_BLOCK)
        after = {name: shape for name, shape in AFTER_BLOCKS.items() if has_logits or name != "logits"}
        blocks = {f"blocks.{layer}.{name}": shape for layer in range(n_layers) for name, shape in in_block.items()}
        super().__init__({**BEFORE_BLOCKS, **blocks, **after})

    def match(self, pattern: str) -> list[str]:
        """The sites that a name or glob stands for, in forward order.

        Raises:
            UnknownSite: nothing matches; the message lists the choices.
        """
        pattern = canonical(pattern)
        if pattern in self:
            return [pattern]
        matched = [name for name in self if fnmatchcase(name, pattern)]
        if not matched:
            raise UnknownSite(self._complaint(pattern))
        return matched

    def _complaint(self, pattern: str) -> str:
        choices = f"sites of a block: {', '.join(IN_BLOCK)}; others: {', '.join(n for n in self if not layer_of(n)[1])}"
        in_block = _BLOCK_NAME.fullmatch(pattern)
        if in_block and in_block[2] in IN_BLOCK:
            return (
                f"no site {pattern!r}: this {self.model_name} has {self.n_layers} layers, "
                f"blocks.0 to blocks.{self.n_layers - 1}"
            )
        if pattern in IN_BLOCK:
            return f"no site {pattern!r}; did you mean 'blocks.*.{pattern}' or one block, 'blocks.0.{pattern}'?"
        return f"no site {pattern!r} in this {self.model_name} with {self.n_layers} layers; {choices}"


def canonical(name: str) -> str:
    """Our spelling of a site name or glob that may be in TransformerLens's."""
    if not isinstance(name, str):
        raise TypeError(f"a site is named by a string, not by {name!r}")
    return name.replace("hook_attn_scores", "scores").replace("hook_", "")


def layer_of(site: str) -> tuple[int | None, str]:
    """The block a site lies in and its name there: `blocks.5.attn.q` -> (5, "attn.q"); `embed` -> (None, "")."""
    match = _BLOCK_NAME.fullmatch(site)
    return (int(match[1]), match[2]) if match else (None, "")


def axis_of(shape: str, *names: str) -> int | None:
    """The index of the first axis called by one of `names` in a shape in words, or None."""
    words = shape.split()
    return next((index for index, word in enumerate(words) if word in names), None)


def position_axis(shape: str) -> int:
    """The axis of positions, which every site has."""
    axis = axis_of(shape, *POSITIONS)
    assert axis is not None, shape
    return axis
