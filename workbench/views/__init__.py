"""The views, without Gradio: their HTML, CSS and JavaScript, and the Python that fills them with values.

The same files make the page, a notebook's output and a stand-alone file.
"""

from pathlib import Path

HERE = Path(__file__).parent


def asset(name: str) -> str:
    """The text of a file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")
