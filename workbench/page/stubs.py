"""A faster import of Gradio, without the stub files that it writes for editors.

It stands apart from `compat`, which imports Gradio.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_stubs() -> Iterator[None]:
    """A block in which Gradio can be imported in half of the time.

    Each time that Gradio defines a component, it parses the component's source and compares its stub file with a new
    one. It does not do so if `inspect` finds no file of the component. There is no documented way to choose this.
    """
    file_of = inspect.getfile

    def file_outside(thing: object) -> str:
        if str(getattr(thing, "__module__", "")).startswith("gradio."):
            raise OSError("Gradio writes no stub for a class without a file")
        return file_of(thing)  # type: ignore[arg-type]  # whatever Gradio passes

    inspect.getfile = file_outside  # type: ignore[assignment]  # as above
    try:
        yield
    finally:
        inspect.getfile = file_of
