"""Run the notebooks and keep their outputs: `python notebooks/execute.py`, or with the names of some.

Beside every interactive output goes a static picture, drawn by Chromium, for readers on a code host: in the same
output for plotly's figures, which carry no plotly.js; as one of its own for the attention view, whose HTML is dropped
there.
"""

import base64
import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from plotly.offline import get_plotlyjs

FOLDER = Path(__file__).parent
PLOTLY, HTML, PNG = "application/vnd.plotly.v1+json", "text/html", "image/png"
WIDTH, VIEW_WIDTH = 860, 1040
DRAW = """async ([figure, width]) => {
  const drawn = await Plotly.newPlot(document.createElement("div"), figure.data, figure.layout);
  return Plotly.toImage(drawn, { format: "png", width, height: figure.layout.height });
}"""


def notebooks() -> list[Path]:
    """All notebooks, in the order in which they are read."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def executed(notebook: NotebookNode) -> NotebookNode:
    """The notebook after a run from top to bottom, in the repository's root. Raises if a cell does."""
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm, which draws its bars with characters then
    resources = {"metadata": {"path": str(FOLDER.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources, record_timing=False).execute()
    return notebook


def add_pictures(notebook: NotebookNode, page: Page) -> None:
    """A static picture beside each output that is interactive."""
    page.set_content(f"<script>{get_plotlyjs()}</script>")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [shown for output in cell.outputs for shown in with_picture(output, page)]


def with_picture(output: NotebookNode, page: Page) -> Iterator[NotebookNode]:
    """The output, and what stands for it where nothing can be interactive."""
    data = output.get("data", {})
    if PLOTLY in data:
        address = page.evaluate(DRAW, [data[PLOTLY], WIDTH])
        data[PNG] = small(base64.b64decode(address.partition(",")[2]))
    yield output
    if data.get(HTML, "").startswith("<iframe"):
        yield nbformat.v4.new_output("display_data", data={PNG: photograph(data[HTML], page)})


def photograph(frame: str, page: Page) -> str:
    """What a frame of a notebook shows, as a PNG in base64."""
    other = page.context.new_page()
    other.set_viewport_size({"width": VIEW_WIDTH, "height": 900})
    other.set_content(f'<body style="margin: 0">{frame}</body>')
    view, shown = other.locator("iframe"), other.frame_locator("iframe").locator("#attention[data-drawn]")
    shown.wait_for(timeout=120_000)  # on a busy machine
    view.evaluate("(frame, height) => (frame.height = height)", shown.evaluate("() => document.body.scrollHeight"))
    picture = view.screenshot()
    other.close()
    return small(picture)


def small(picture: bytes) -> str:
    """A PNG with a palette of 256 colours, in base64."""
    out = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGBA")
    Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").quantize(256).save(
        out, "PNG", optimize=True
    )
    return base64.b64encode(out.getvalue()).decode()


def main(names: list[str]) -> None:
    """Run the notebooks of these names, or all of them."""
    there = [path.stem for path in notebooks()]
    if unknown := [name for name in names if name not in there]:
        sys.exit(f"no notebook {unknown[0]}; there are {', '.join(there)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for path in notebooks():
            if not names or path.stem in names:
                notebook = executed(nbformat.read(path, as_version=4))
                add_pictures(notebook, browser.new_context().new_page())
                nbformat.write(notebook, path)
                print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
