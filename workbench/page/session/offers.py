"""What a page offers beside a result: its Python, its definition, its downloads and where it comes from."""

import hashlib
import inspect

from workbench.page.session.bench import Bench
from workbench.page.session.calls import Call
from workbench.page.session.code import code, public_module
from workbench.views.standalone import described


def definition(call: Call) -> str:
    """The docstrings of the functions of a call: idea, formula, units and source; without "Errors:" paragraphs."""
    told = []
    for function in dict.fromkeys(part.function for part in call.calls()):
        text = inspect.getdoc(function) or ""
        kept = [paragraph for paragraph in text.split("\n\n") if not paragraph.startswith("Errors:")]
        told.append(f"{public_module(function)}.{function.__name__}\n\n" + "\n\n".join(kept))
    return "\n\n\n".join(told)


def offer(bench: Bench, call: Call) -> dict[str, str]:
    """A call as Python, the definitions of its functions, the key and the file name of its downloads, and one line on
    where its result comes from, if the result is in the cache."""
    found = bench.results.get(call)
    names = dict.fromkeys(needed.name for needed in call.needs() if hasattr(needed, "name"))
    return {
        "key": keep(bench, call),
        "file": call.file_name,
        "code": code(call, bench),
        "definition": definition(call),
        "about": described(getattr(found, "provenance", {"checkpoints": ", ".join(names)})),
    }


def keep(bench: Bench, call: Call) -> str:
    """Keep a call for downloads of its result (the last 256 are kept); returns its key, an opaque digest."""
    key = hashlib.sha256(code(call, bench).encode()).hexdigest()[:20]
    bench.offered[key] = call
    bench.offered.move_to_end(key)
    while len(bench.offered) > 256:
        bench.offered.popitem(last=False)
    return key
