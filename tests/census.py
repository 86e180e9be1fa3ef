"""What the objects of a process hold, and the page's server with a census at each SIGUSR1.

The size of a process is no measure of a leak: it depends on the allocator and on what other threads are doing. The
objects that are still referenced after a garbage collection do not.

`python tests/census.py FOLDER ARGUMENTS…` runs `app.py ARGUMENTS…` with a result cache of `KEPT` results, which a few
runs fill. At each SIGUSR1 it writes `census()` as JSON to `FOLDER/<n>.json`, n = 0, 1, …
"""

import gc
import json
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import FrameType

import numpy as np
import torch

KEPT = 4


def census() -> dict[str, Counter[str]]:
    """What is referenced in this process, after a garbage collection, by type.

    Returns:
        `objects`: the number of objects, without strings and numbers.
        `bytes`: the total size of strings, byte strings, numpy arrays and the storages of tensors. Each is counted
            once, however many objects refer to it.
    """
    gc.unfreeze()  # `workbench.imports.to_stay` exempts objects, which could refer to new ones
    gc.collect()
    objects, seen = Counter[str](), dict[int, tuple[str, int]]()
    for one in reachable():
        kind = type(one)
        if kind in (str, bytes, bytearray):
            seen[id(one)] = kind.__name__, sys.getsizeof(one)
        elif kind not in (int, float, bool, complex):
            objects[f"{kind.__module__}.{kind.__qualname__}"] += 1
            if kind is np.ndarray and one.base is None:
                seen[id(one)] = "array", one.nbytes
            elif issubclass(kind, torch.Tensor) and one.device.type != "meta" and one.layout == torch.strided:
                seen[one.untyped_storage().data_ptr()] = "tensor", one.untyped_storage().nbytes()
    sizes = Counter[str]()
    for name, size in seen.values():
        sizes[name] += size
    return {"objects": objects, "bytes": sizes}


def reachable() -> Iterator[object]:
    """Each object that the garbage collector tracks, and the untracked ones that these refer to."""
    seen, found = set[int](), gc.get_objects()
    while found:
        yield from found
        others = (other for one in found for other in gc.get_referents(one) if not gc.is_tracked(other))
        found = [other for other in others if id(other) not in seen and not seen.add(id(other))]


def main() -> None:
    from workbench.imports import uncollected

    with uncollected():
        from workbench.page.session import bench
    bench.KEPT_RESULTS = KEPT
    folder, numbers = Path(sys.argv[1]), count()

    def write(number: int, frame: FrameType | None) -> None:
        part = folder / "part"
        part.write_text(json.dumps(census()))
        part.rename(folder / f"{next(numbers)}.json")

    signal.signal(signal.SIGUSR1, write)
    sys.argv = ["app.py", *sys.argv[2:]]
    runpy.run_path("app.py", run_name="__main__")


if __name__ == "__main__":
    main()
