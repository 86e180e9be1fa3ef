"""Return freed memory to the operating system.

glibc keeps freed blocks of up to 32 MB for later allocations, in an arena of each thread. After views in several
threads these are hundreds of megabytes that no view uses, and the next view's memory comes on top of them.
"""

import ctypes
import os
from functools import cache


@cache
def _c_library() -> ctypes.CDLL | None:
    """The C library, if it is glibc; others, such as those of macOS and Alpine, have no `malloc_trim`."""
    library = ctypes.CDLL(None) if os.name == "posix" else None
    return library if hasattr(library, "malloc_trim") else None


def give_back_memory() -> None:
    """Return all freed memory of the process to the operating system, in some milliseconds. Without glibc, nothing."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)
