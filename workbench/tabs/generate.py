"""Generate: text as it is written, and what the model expected at every token."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
import torch
from gradio.components import Component

from hooks import Edit
from workbench import generation, views
from workbench.errors import WorkbenchError
from workbench.tabs.bench import Bench, Opened
from workbench.tabs.edit_lines import parse_edits
from workbench.tabs.place import Due, Place
from workbench.tabs.strips import strip
from workbench.text import token_labels, vocabulary_labels

TITLE = "Generate"
HOW = (
    "The prompt in grey, then what the model writes. Colour and bar: surprisal, −log probability in nats under the "
    "model's own distribution. Click a token for what was expected there, and go on from another."
)
EDIT_EXAMPLE = "zero blocks.2.attn.z heads=5\nscale blocks.3.mlp_out 0.5"
MOST_NEW = 512
MOST_SECONDS = 120.0
PERIOD = 0.1  # seconds between two updates of the page


def build(place: Place) -> None:
    with gr.Row(elem_classes="tools"):
        again = gr.Button("Generate", size="sm", variant="secondary", min_width=90, scale=0)
        stop = gr.Button("Stop", size="sm", min_width=60, scale=0, elem_id="stop")
        use = gr.Button("Use as prompt", size="sm", min_width=120, scale=0)
        settings = sampling_controls(place)
    written = views.token_strip({"empty": "Nothing generated yet."}, elem_id="written", label="generated tokens")
    with gr.Accordion("Edits: change the model and see what it writes then", open=False):
        changes = gr.Textbox("", label="One a line", placeholder=EDIT_EXAMPLE, lines=2, elem_id="edits")
        place.link("edits", changes)
        edited = views.token_strip({"empty": "No edits."}, elem_id="edited", label="tokens generated with the edits")
    inputs, outputs = [changes, *settings], [written, edited]
    shown = place.shows(generate, inputs=inputs, outputs=outputs, redraws=[])
    pressed = place.on(again.click, regenerate, inputs=inputs, outputs=outputs)
    branched = place.on(written.branch, branch, inputs=[written, *settings], outputs=[written])
    stop.click(None, cancels=[shown, pressed, branched])
    place.asks.append(place.on(use.click, text_of, inputs=[written], outputs=[place.prompt]))


def sampling_controls(place: Place, prefix: str = "") -> list[Component]:
    """Length, temperature, top-p, top-k, seed, and whether the text may end; kept in the page's address."""

    def number(name: str, value: float, label: str, **limits: float) -> Component:
        box = gr.Number(value, label=label, min_width=74, scale=0, elem_classes="number", **limits)
        return place.link(prefix + name, box)

    return [
        number("length", 60, "Length", minimum=1, maximum=MOST_NEW, precision=0),
        number("temperature", 0, "Temperature", minimum=0, maximum=5, step=0.1),
        number("top_p", 1, "Top-p", minimum=0.05, maximum=1, step=0.05),
        number("top_k", 0, "Top-k", minimum=0, precision=0),
        number("seed", 0, "Seed", minimum=0, precision=0),
        place.link(prefix + "ends", gr.Checkbox(True, label="Stop at end of text", min_width=150, scale=0)),
    ]


def generate(bench: Bench, due: Due, changes: str, *settings: float) -> Iterator[list[Any]]:
    """Stream a continuation of the prompt into the strip; then, with edits, another into the second one."""
    opened = bench.read(due.subject.checkpoint, due.subject.prompt)
    edits = parse_edits(changes, opened.model, opened.tokenizer)
    start, given = opened.ids[0].tolist(), opened.ids.shape[1]
    for grown in write(bench, opened, start, given, *settings):
        yield [grown, gr.skip()]
    if not edits:
        yield [gr.skip(), {"empty": "No edits."}]
        return
    for grown in write(bench, opened, start, given, *settings, edits=edits):
        yield [gr.skip(), grown | {"title": f"With {len(edits)} edit{'s' if len(edits) > 1 else ''}, by surprisal"}]


def regenerate(bench: Bench, due: Due, _: Mapping[str, Any], changes: str, *settings: float) -> Iterator[list[Any]]:
    """The same again, with the settings as they are now."""
    yield from generate(bench, due, changes, *settings)


def branch(
    bench: Bench, due: Due, told: Mapping[str, Any], written: dict[str, Any], *settings: float
) -> Iterator[dict[str, Any]]:
    """Go on from another token than the one that was drawn."""
    opened = bench.read(due.subject.checkpoint, due.subject.prompt)
    ids, place, chosen = checked_ids(opened, written), told.get("token"), told.get("id")
    if not isinstance(place, int) or not isinstance(chosen, int) or not 0 < place < len(ids):
        raise WorkbenchError(f"no token {place!r} to branch from; there are {len(ids)}")
    start = [*ids[:place], chosen]
    yield from write(bench, opened, checked_ids(opened, {"ids": start}), min(place, opened.ids.shape[1]), *settings)


def write(
    bench: Bench, opened: Opened, start: list[int], given: int, *settings: float, edits: Sequence[Edit] = ()
) -> Iterator[dict[str, Any]]:
    """The strip of a text that grows, at most every `PERIOD` seconds."""
    ids, scores = list(start), [float("nan")] * len(start)
    options: list[list[Any]] = [[] for _ in start]
    sent, began = 0.0, time.monotonic()
    for step in steps(bench, opened, start, *settings, edits=edits):
        ids.append(step.id)
        scores.append(step.surprisal)
        names = vocabulary_labels([i for i, _ in step.alternatives], opened.tokenizer)
        options.append([[name, i, round(p, 6)] for name, (i, p) in zip(names, step.alternatives, strict=True)])
        now = time.monotonic()
        if now - sent >= PERIOD:
            sent = now
            yield as_strip(opened, ids, scores, options, given)
        if now - began > MOST_SECONDS:
            break
    yield as_strip(opened, ids, scores, options, given)


def steps(
    bench: Bench, opened: Opened, start: Sequence[int], *settings: float, edits: Sequence[Edit] = ()
) -> Iterator[generation.Step]:
    """Generated steps; the model's lock is held for one token at a time, so that others get in between."""
    *numbers, ends = settings
    length, temperature, top_p, top_k, seed = checked_settings(numbers)
    stream = generation.stream(
        opened.model,
        torch.tensor([start], device=opened.ids.device),
        max_new_tokens=length,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        edits=edits,
        stop_at=[end] if ends and (end := opened.tokenizer.eos_token_id) is not None else [],
    )
    while True:
        with bench.turn():
            step = next(stream, None)
        if step is None:
            return
        yield step


def checked_settings(settings: Sequence[object]) -> tuple[int, float, float, int, int]:
    """Settings as they came from a browser: numbers, and no more tokens than a page may ask for."""
    if not all(isinstance(value, int | float) and value == value for value in settings):
        raise WorkbenchError(f"length, temperature, top-p, top-k and seed are numbers, not {settings}")
    length, temperature, top_p, top_k, seed = settings
    generation.check_sampling(length, temperature, top_p, top_k, seed)
    if length > MOST_NEW:
        raise WorkbenchError(f"{length:,.0f} new tokens; this page generates at most {MOST_NEW}")
    return int(length), float(temperature), float(top_p), int(top_k), int(seed)


def checked_ids(opened: Opened, written: object) -> list[int]:
    """Token ids as they came from a browser."""
    ids = written.get("ids", []) if isinstance(written, dict) else []
    size = opened.model.config.vocab_size
    if not ids or not all(isinstance(i, int) and 0 <= i < size for i in ids):
        raise WorkbenchError(f"not tokens of {opened.checkpoint}; ids go from 0 to {size - 1}")
    return ids


def as_strip(
    opened: Opened, ids: Sequence[int], scores: Sequence[float], options: Sequence[object], given: int
) -> dict[str, Any]:
    return strip(
        token_labels(ids, opened.tokenizer),
        ids,
        scores,
        title="Written text, by surprisal",
        high=8.0,
        measure="surprisal",
        probability=True,
        given=given,
        alternatives=list(options),
        follow=True,
    )


def text_of(bench: Bench, due: Due, _: Mapping[str, Any], written: object) -> str:
    """The whole written text, to be the next prompt."""
    opened = bench.read(due.subject.checkpoint, due.subject.prompt)
    return opened.tokenizer.decode(checked_ids(opened, written), skip_special_tokens=True)
