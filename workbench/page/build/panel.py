"""A result as a picture, with a note on how to read it, its definition, its Python, its data and a link."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import gradio as gr
from gradio.components import Component

from workbench import results
from workbench.analyses.support.heads import head_name
from workbench.generation import Written
from workbench.page import components
from workbench.page.build.field import TextField
from workbench.page.build.slot import Slot, agreement_button, asked
from workbench.page.session.arguments import TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.offers import offer
from workbench.page.session.prices import Expensive, Price, agree, priced
from workbench.page.session.requests import Query, TabRequest
from workbench.page.session.saved import is_saved
from workbench.plots import emphasise, marked, narrowed, plot, same_colours, untitled, with_legend_below
from workbench.progress import Progress
from workbench.results import Grid, Points, Result
from workbench.views.strip import strip, strip_of

NARROW = 33  # columns of a grid that fit beside each other in most windows: 32 heads and the MLP
Chooses = Mapping[str, tuple[str, int, int]]


@dataclass(frozen=True)
class Pick:
    """A menu that selects a layer or a head on all tabs.

    Attributes:
        options: pairs of a label and its selection, such as {"layer": 2, "head": 5}.
        chosen: index of the current option.
    """

    label: str
    options: Sequence[tuple[str, Mapping[str, int]]]
    chosen: int


@dataclass(frozen=True)
class View:
    """The content of a panel: a call, and how its picture is read and used.

    Attributes:
        note: one line on how to read it.
        title: heading above the picture; the result's own title if empty.
        chooses: the selection on all tabs that a click on the picture makes. For "token", "layer" or "head": the
            axis of the clicked point ("x", "y" or "pointNumber"), a number to add to its place on that axis, and the
            number of tokens, layers or heads.
        pick: a menu that makes the same selection.
        line: name of the curve that is emphasised among many.
        marks: places on the x axis of curves that get a tick.
        scale: the call whose result sets the colour scale; None means this call.
        edit: an edit in words (see `workbench.interventions`) that a button puts on the page's stack; "" for no button.
    """

    call: Call
    note: str
    title: str = ""
    chooses: Chooses = field(default_factory=dict)
    pick: Pick | None = None
    line: str | None = None
    marks: tuple[float, ...] = ()
    scale: Call | None = None
    edit: str = ""


def menu(entries: Iterable[str], label: str, visible: bool = True) -> gr.Dropdown:
    """A menu for the head of a panel, which renders it; the first entry is chosen."""
    entries = list(entries)
    return gr.Dropdown(
        entries,
        value=entries[0],
        label=label,
        container=False,
        min_width=120,
        elem_classes="menu",
        visible=shown_if(visible),
        render=False,
    )


def shown_if(visible: bool) -> bool | Literal["hidden"]:
    """The visibility of a control. A hidden control keeps its value."""
    return visible or "hidden"


class Panel:
    """The components of one picture: heading, tools and menus, a notice for errors, and a plot or a strip of tokens.

    Args:
        elem_id: id of the panel on the page.
        question: what the picture answers, in a few words; the heading.
        menus: menus that stand beside the heading (see `menu`).
        below: further controls, not yet rendered, that stand below the heading.
        of_tokens: whether the picture is a strip of tokens.
        height: the plot's height in pixels; None leaves it to the result.
        beside: whether the panel stands beside another one, so that grids have a narrow column.
    """

    def __init__(
        self,
        elem_id: str,
        question: str = "",
        *,
        menus: Sequence[Component] = (),
        below: Sequence[Component | TextField] = (),
        of_tokens: bool = False,
        height: int | None = None,
        beside: bool = False,
    ) -> None:
        self._id, self._of_tokens, self._height, self._beside = elem_id, of_tokens, height, beside
        self._about = {"panel": elem_id, "question": question}
        with gr.Column(elem_id=elem_id, min_width=260, elem_classes="view-panel"):
            with gr.Row(elem_classes="panel-head"):
                self.tools = components.tools(self._about, elem_id=f"{elem_id}-tools")
                for each in menus:
                    each.render()
            for each in below:
                each.render()
            self.notice = components.sentence(elem_classes="problem")
            self.agreement = agreement_button(f"{elem_id}-price")
            if of_tokens:
                self.picture = components.token_strip({"empty": ""}, elem_id=f"{elem_id}-strip", label=elem_id)
            else:
                self.picture = gr.Plot(show_label=False, elem_classes="figure")

    def draws(
        self,
        slot: Slot,
        view_of: Callable[..., View | str],
        *,
        inputs: Sequence[Component] = (),
        follows: Sequence[str] = (),
        with_progress: bool = False,
        waiting: str = "",
    ) -> None:
        """Show the result of `view_of(bench, request, *inputs)` when the tab is drawn or a control changes.

        `view_of` returns a `View`, or a string that is shown as a note without a picture. With `with_progress`, it also
        takes `progress=`, a callback for its own computations. If the view is expensive, or if `view_of` raises
        `Expensive`, a button with the price is shown instead; a click on it computes the view. Beside the button stands
        the view's note, or `waiting` if `view_of` raised `Expensive`.
        """

        def draw(bench: Bench, request: TabRequest, *controls: object, progress: Progress) -> list[Any]:
            try:
                view = view_of(bench, request, *controls, **({"progress": progress} if with_progress else {}))
                if isinstance(view, str):
                    return self._without_picture(view)
            except Expensive as expensive:
                return self._without_picture(waiting, expensive.price)
            try:
                view = of_edits(view, request.query)
                price = agree(bench, request, view.call, *([view.scale] if view.scale else []))
            except Expensive as expensive:
                return self._without_picture(view.note, expensive.price, view.title)
            return [*self.show(bench, view, priced(progress, price)), asked(None)]

        outputs, options = [self.picture, self.tools, self.agreement], {"notice": self.notice, "with_progress": True}
        slot.shows(draw, inputs=inputs, outputs=outputs, follows=follows, agreement=self.agreement, **options)

    def _without_picture(self, note: str, price: Price | None = None, title: str = "") -> list[Any]:
        """The values of the outputs with a note, or a button with a price, in place of the picture."""
        about = self._about | {"title": title, "note": note}
        return [{"empty": ""} if self._of_tokens else None, about, asked(price)]

    def show(self, bench: Bench, view: View, progress: Progress | None = None) -> list[Any]:
        """Compute a view's call; returns the values of the picture and of the tools above it."""
        found = result(view.call, bench, progress)
        scale = found if view.scale is None else result(view.scale, bench, progress)
        if self._of_tokens:
            picture = strip_of_result(bench, view.call, found, scale)
        else:
            picture = untitled(plot(found))  # the title stands above it
            picture = narrowed(picture) if self._beside else picture
            picture = picture if self._height is None else picture.update_layout(height=self._height)
            picture = picture if view.line is None else emphasise(picture, view.line)
            picture = with_legend_below(picture) if self._beside else picture
            picture = marked(picture, view.marks) if view.marks else picture
            picture = picture if view.scale is None else same_colours(picture, plot(scale))
        about = self._about | {
            "title": view.title or found.title,
            "note": note_of(view, found),
            "wide": is_wide(found),
            "chooses": dict(view.chooses),
            "pick": None if view.pick is None else asdict(view.pick),
            "edit": view.edit,
        }
        return [picture, about | offer(bench, view.call)]


def of_edits(view: View, query: Query) -> View:
    """A view with a sentence on the interventions that are switched on. If the page shows the change that they make,
    and results of this kind can be subtracted, the view of the change."""
    if not query.edits or is_saved(view.call):
        return view
    if not view.call.edits:
        of_text = any(isinstance(needed, TokensOf) for needed in view.call.needs())
        why = "it is of the unedited models" if of_text else "it reads weights"
        return replace(view, note=f"{view.note} The edits do not affect this: {why}.")
    edits = ", ".join(view.call.edits.split("\n"))
    note = f"{view.note} With {edits}."
    if query.change and view.call.returns(Points, Written):
        note = f"{note} This cannot be subtracted from the unedited result."
    elif query.change:
        scale = None if view.scale is None else change_of(view.scale)
        return replace(view, call=change_of(view.call), scale=scale, note=f"Change by {edits}. {view.note}")
    return replace(view, note=note)


def change_of(call: Call) -> Call:
    """The result of a call minus that of the unedited models."""
    return Call.quick(results.change, call, call.unedited).shown_by(call.show) if call.edits else call


def note_of(view: View, found: Result) -> str:
    """The note of a view, with the warning of the analysis, if any."""
    warning = found.provenance.get("warning")
    return view.note if warning is None else f"{view.note} Warning: {warning}."


def is_wide(found: Result) -> bool:
    """Whether a result is a grid of more than `NARROW` columns, which does not fit into a narrow window."""
    return isinstance(found, Grid) and len(found.columns) > NARROW


def layer_pick(request: TabRequest, layers: int) -> Pick:
    """A menu of the layers; the last one is chosen unless another is selected."""
    layer = request.selection.layer
    chosen = layers - 1 if layer is None else min(layer, layers - 1)
    return Pick("layer", [(str(n), {"layer": n}) for n in range(layers)], chosen)


def head_pick(request: TabRequest, shape: tuple[int, int], default: tuple[int, int]) -> Pick:
    """A menu of all heads, given (layers, heads); the selected head is chosen if it exists, else `default`."""
    names = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    wanted = (request.selection.layer, request.selection.head)
    options = [(head_name(layer, head), {"layer": layer, "head": head}) for layer, head in names]
    return Pick("head", options, names.index(wanted if wanted in names else default))


def strip_of_result(bench: Bench, call: Call, found: Result, scale: Result) -> dict[str, Any]:
    """A strip of the tokens of the call's text, coloured by a result with one number for each token.

    The largest magnitude in `scale` has full colour.
    """
    if isinstance(found, Written):
        return strip_of(found) | {"title": ""}
    text = next(source for source in call.needs() if isinstance(source, TokensOf))
    opened = bench.read(text.name, text.text)
    scores = found.values.ravel().tolist()
    scores += [float("nan")] * (len(opened.labels) - len(scores))
    high = max((abs(number) for number in scale.values.ravel().tolist() if number == number), default=1.0)
    about = {"signed": scale.signed, "measure": found.value_name, "unit": found.unit, "high": high or 1.0}
    return strip(opened.labels, opened.ids[0].tolist(), scores, **about)
