"""Names of sites in the files of other libraries, and families of models by the names of models."""

import re

from hooks.sites import IN_BLOCK, REFUSED_NORM_FIRST, REFUSED_POST_NORM, THEIRS, hooked, layer_of

OLMO_NUMBER = re.compile(r"olmo[-_ ]?([23])(?![\dbm])", re.IGNORECASE)
FAMILIES = ("gemma", "gpt2", "gpt-2", "gpt-neox", "llama", "mistral", "phi", "pythia", "qwen", "deepseek", "mamba")
"""Words in the names of models of other families."""
NOT_THE_SAME = {*THEIRS, *REFUSED_NORM_FIRST, *REFUSED_POST_NORM}
"""Names of TransformerLens whose tensor, in some family, is not that of our name."""
MODULES = {  # modules of transformers -> (site of the input, site of the output)
    "": ("resid_pre", "resid_post"),
    "mlp": ("mlp_in", "mlp_out_raw"),
    "self_attn": ("attn_in", "attn_out_raw"),
}
MODULE = re.compile(r"(?:model\.)?layers\.(\d+)(?:\.(\w+))?")


def site_of_hook(name: str) -> str:
    """The site of a TransformerLens name, `blocks.2.hook_resid_post` -> `blocks.2.resid_post`.

    Names whose site depends on the family of the model stay as they are: `model.sites.match` resolves them.
    """
    layer, within = layer_of(name)
    site = within.replace("hook_", "")
    if layer is not None and site in IN_BLOCK and within == hooked(site) and within not in NOT_THE_SAME:
        return f"blocks.{layer}.{site}"
    return "embed" if name == "hook_embed" else name


def hook_of_site(site: str) -> str:
    """TransformerLens's name of a site, as far as it is the same in all families."""
    return hooked(site) if "hook_" not in site else site


def sites_of_module(name: str) -> tuple[str, str] | None:
    """(input, output): the sites of a module of transformers; None for other modules.

    `layers.5` is (`blocks.5.resid_pre`, `blocks.5.resid_post`); an MLP's output is taken before a norm that follows it.
    """
    if name == "embed_tokens":
        return "embed", "embed"
    found = MODULE.fullmatch(name)
    if not found or (found[2] or "") not in MODULES:
        return None
    reads, writes = MODULES[found[2] or ""]
    return f"blocks.{found[1]}.{reads}", f"blocks.{found[1]}.{writes}"


def module_of_site(site: str) -> str | None:
    """The module of transformers whose output is at a site; None if there is none."""
    if site == "embed":
        return "embed_tokens"
    layer, within = layer_of(site)
    names = {writes: name for name, (_, writes) in MODULES.items()}
    if layer is None or within not in names:
        return None
    return f"layers.{layer}" + (f".{names[within]}" if names[within] else "")


def family_of_name(model: str) -> str:
    """The `model_type` of transformers by the name of a model, or a word of `FAMILIES`; "" for other names."""
    name = model.lower()
    if found := OLMO_NUMBER.search(name):
        return f"olmo{found[1]}"
    if re.search(r"olmo-(1b|7b)", name):
        return "olmo"
    return next((word for word in FAMILIES if word in name), "")
