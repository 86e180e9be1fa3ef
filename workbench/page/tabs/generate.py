"""Generate: text, shown while it is generated, and the tokens that the model expected at each position."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from typing import Any

import gradio as gr
import torch
from gradio.components import Component

from workbench import generation, interventions
from workbench.chat import end_tokens, replied, typed
from workbench.errors import WorkbenchError
from workbench.page import components
from workbench.page.build.slot import Slot
from workbench.page.session.bench import Bench
from workbench.page.session.edit_lines import edits_on, sets_of
from workbench.page.session.opened_prompt import OpenedPrompt
from workbench.page.session.requests import TabRequest
from workbench.page.session.strips import turn_marks
from workbench.page.session.text_requests import (
    TextRequest,
    branch_of,
    checked_ids,
    checked_settings,
    kept_of,
    start_of,
)
from workbench.tokens import token_labels
from workbench.views.strip import surprisals

TITLE = "Generate"
HOW = (
    "The prompt in grey, then what the model writes; the stronger the colour, the less expected the token. Click a "
    "token to see its alternatives, or to continue from one."
)
MOST_SECONDS = 120.0
PERIOD = 0.1  # seconds between two updates of the page


def build(slot: Slot) -> None:
    """The generated text and the sampling settings."""
    with gr.Row(elem_classes="tools"):
        again = gr.Button("Generate", size="sm", variant="secondary", min_width=90, scale=0)
        settings = sampling_controls(slot)
    with gr.Row(elem_id="texts"):
        strips = [
            components.token_strip({"empty": "Nothing written yet."}, elem_id="written", label="written text"),
            components.token_strip({"empty": ""}, elem_id="edited", label="text written with the edits"),
        ]
    branched = slot.link("branch", gr.Textbox("", elem_id="branch", visible="hidden"))
    outputs = [*strips, branched]
    slot.shows(stream_texts, inputs=[branched, *settings], outputs=outputs, redraws=[])
    slot.on(again.click, regenerate, inputs=settings, outputs=outputs)
    slot.on(slot.details.branch, branch, inputs=settings, outputs=outputs)
    slot.runs(slot.details.use, generated_text, outputs=[slot.prompt])


def sampling_controls(slot: Slot, prefix: str = "") -> list[Component]:
    """Controls for length, temperature, top-p, top-k, seed and end of text; their values are in the page's address."""

    def number(name: str, value: float, label: str, kind: str = "number", **options: float) -> Component:
        # Without Gradio's limits: it would say what is out of range once for each view, over the page.
        box = gr.Number(value, label=label, min_width=74, scale=0, elem_classes=kind, **options)
        return slot.link(prefix + name, box)

    length = number("length", 60, "Length", precision=0)
    temperature = number("temperature", 0, "Temperature", step=0.1)
    seed = number("seed", 0, "Seed", precision=0)
    more = gr.Checkbox(False, label="More", min_width=60, scale=0, elem_classes="more")
    slot.link(prefix + "more", more)
    top_p = number("top_p", 1, "Top-p", "number rare", step=0.05)
    top_k = number("top_k", 0, "Top-k", "number rare", precision=0)
    ends = gr.Checkbox(True, label="Stop at end of text", min_width=150, scale=0, elem_classes="rare")
    return [length, temperature, top_p, top_k, seed, slot.link(prefix + "ends", ends)]


def stream_texts(bench: Bench, request: TabRequest, branch: str, *settings: float) -> Iterator[list[Any]]:
    """Stream a continuation of the prompt into the strip and, with edits, another beside it.

    `branch` comes from the page's address and applies to the first run only.
    """
    branch = branch if request.query.run == 1 else ""
    yield from both(
        bench, TextRequest(request.query.checkpoint, request.query.prompt, branch), request.query.edits, *settings
    )


def regenerate(bench: Bench, request: TabRequest, _: Mapping[str, Any], *settings: float) -> Iterator[list[Any]]:
    """Stream the prompt's continuation again, with the current settings."""
    yield from both(bench, TextRequest(request.query.checkpoint, request.query.prompt), request.query.edits, *settings)


def branch(bench: Bench, request: TabRequest, data: Mapping[str, Any], *settings: float) -> Iterator[list[Any]]:
    """Stream a continuation from another token than the generated one: token `id` at position `token` of `ids`."""
    opened = bench.read(request.query.checkpoint, request.query.prompt)
    ids, place, chosen = checked_ids(bench, opened.checkpoint, data.get("ids")), data.get("token"), data.get("id")
    if type(place) is not int or not 0 < place < len(ids):
        raise WorkbenchError(f"no token {place!r} to branch from; the text has {len(ids)} tokens")
    start = checked_ids(bench, opened.checkpoint, [*ids[:place], chosen])
    text = TextRequest(opened.checkpoint, request.query.prompt, branch_of(opened.ids[0].tolist(), start))
    yield from both(bench, text, request.query.edits, *settings)


def both(bench: Bench, request: TextRequest, edits: str, *settings: float) -> Iterator[list[Any]]:
    """Stream the strips of the plain and of the edited model's text, and the branch from which they start."""
    *numbers, ends = settings
    length, temperature, top_p, top_k, seed = checked_settings(numbers)
    opened = bench.read(request.checkpoint, request.prompt)
    request = replace(request, length=length, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    requests = [request, replace(request, edits=edits)] if edits else [request]
    texts = [stream_strip(bench, opened, one, bool(ends)) for one in requests]
    shown: list[dict[str, Any]] = [{}] * len(requests)
    for frames in zip_longest(*texts):
        shown = [new or old for new, old in zip(frames, shown, strict=True)]
        strips = beside(shown[0], shown[1], edits) if edits else [shown[0], gr.update(visible=False)]
        yield [*strips, request.branch]


def stream_strip(bench: Bench, opened: OpenedPrompt, request: TextRequest, ends: bool) -> Iterator[dict[str, Any]]:
    """Stream the strip of a text while it is generated: one every `PERIOD` seconds, for at most `MOST_SECONDS`."""
    start = start_of(bench, opened, request.branch)
    settings = (request.length, request.temperature, request.top_p, request.top_k, request.seed, ends)
    labels, ids, scores = list(opened.labels[: kept_of(opened, request.branch)]), start[:1], [float("nan")]
    sent = began = time.monotonic()
    for step in stream_steps(bench, opened, start, *settings, edits=request.edits, read=True):
        ids.append(step.id)
        scores.append(step.surprisal)
        now = time.monotonic()
        if len(ids) < len(start):
            continue  # the given tokens are still being read
        if now - began > MOST_SECONDS:
            break
        if now - sent >= PERIOD:
            sent, labels = now, grown(labels, ids, opened)
            yield strip_of_writing(opened, request, start, labels, ids, scores)
    written = strip_of_writing(opened, request, start, grown(labels, ids, opened), ids, scores)
    if time.monotonic() - began > MOST_SECONDS:
        written["title"] += f" · stopped after {MOST_SECONDS:g} s, the time limit of this page"
    yield written | {"final": True}


def stream_steps(
    bench: Bench,
    opened: OpenedPrompt,
    start: Sequence[int],
    *settings: float,
    edits: str = "",
    read: bool = False,
) -> Iterator[generation.Step]:
    """Stream the tokens that the model generates with interventions.

    The model's lock is held for one token at a time, so other requests can run, too.
    """
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
        stop_at=stop_tokens(opened) if ends else [],
        read=read,
    )
    lines = interventions.read(edits, opened.tokenizer, sets_of(bench, opened.checkpoint))
    with bench.lock.held():
        changes = edits_on(bench, opened.checkpoint, opened.model, lines)
    while True:
        with (
            bench.lock.held(),
            opened.model.tapped(edits=changes),
        ):  # a block for each step, as steps may change threads
            step = next(stream, None)
        if step is None:
            return
        yield step


def stop_tokens(opened: OpenedPrompt) -> Sequence[int]:
    """The tokens that end a generated text: the end of text, and in a conversation those that end a turn."""
    if opened.conversation is not None:
        return end_tokens(opened.tokenizer)
    return [] if opened.tokenizer.eos_token_id is None else [opened.tokenizer.eos_token_id]


def grown(labels: list[str], ids: Sequence[int], opened: OpenedPrompt) -> list[str]:
    """The labels of a longer text. A character spans at most four tokens, so only the last old labels can change."""
    same = max(0, min(len(labels), len(ids)) - 3)
    context = max(0, same - 3)
    return labels[:same] + list(token_labels(ids[context:], opened.tokenizer))[same - context :]


def strip_of_writing(
    opened: OpenedPrompt,
    request: TextRequest,
    start: Sequence[int],
    labels: Sequence[str],
    ids: Sequence[int],
    scores: Sequence[float],
) -> dict[str, Any]:
    """The strip of the text generated so far (see token_strip.js)."""
    about = [f"continued from token {len(start) - 1}"] if request.branch else []
    look = {"checkpoint": opened.checkpoint, "edits": request.edits, "main": not request.edits}
    return surprisals(
        labels,
        ids,
        scores,
        title=" · ".join(["Written text", manner(request), *about]),
        given=kept_of(opened, request.branch),
        ask=asdict(replace(request, length=len(ids) - len(start))),
        look=look | {"name": "with the edits" if request.edits else ""},
        **turn_marks(opened, kept_of(opened, request.branch), len(ids)),
    )


def manner(request: TextRequest) -> str:
    """The sampling settings in words."""
    if not request.temperature:
        return "the likeliest token each time"
    top_p = f", top-p {request.top_p:g}" if request.top_p < 1 else ""
    top_k = f", top-k {request.top_k}" if request.top_k else ""
    return f"temperature {request.temperature:g}{top_p}{top_k}, seed {request.seed}"


def beside(plain: dict[str, Any], edited: dict[str, Any], edits: str) -> list[Any]:
    """The strips of the plain and the edited text, which say which they are. Both mark the first token that differs."""
    pairs = zip(plain["ids"], edited["ids"], strict=False)
    parts = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    where = "no other token so far" if parts is None else f"another text from token {parts}"
    title = f"With {', '.join(interventions.active_lines(edits))} · {where}"
    unedited = {"title": f"Without the edits · {plain['title']}", "look": plain["look"] | {"name": "without the edits"}}
    return [
        plain | unedited | {"parts": parts},
        gr.update(value=edited | {"parts": parts, "title": title}, visible=True),
    ]


def generated_text(bench: Bench, request: TabRequest, data: Mapping[str, Any]) -> str:
    """The whole generated text, for use as the next prompt; in a conversation, the turns with the reply.

    Errors: WorkbenchError, in a conversation, if the text is not the conversation with a reply.
    """
    opened = bench.read(request.query.checkpoint, request.query.prompt)
    ids, given = checked_ids(bench, opened.checkpoint, data.get("ids")), opened.ids[0].tolist()
    if isinstance(opened.prompt, str):
        return opened.tokenizer.decode(ids, skip_special_tokens=True)
    reply = opened.tokenizer.decode(ids[len(given) :], skip_special_tokens=True)
    if ids[: len(given)] != given or not reply.strip():
        raise WorkbenchError(
            "this text is not the conversation with a reply: a token of a turn was exchanged, or the reply is empty; "
            "generate a reply first"
        )
    return typed(replied(opened.prompt, reply))
