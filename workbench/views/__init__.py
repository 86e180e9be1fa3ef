"""The views, independent of Gradio: their HTML, CSS and JavaScript, and the Python that makes their values.

The page, a notebook's output and a stand-alone file use the same files.
"""

from pathlib import Path

HERE = Path(__file__).parent


def asset(name: str) -> str:
    """The text of a file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")
