"""A pinned prompt: a prompt with its checkpoint and interventions, kept in the page's address for comparisons."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from workbench.errors import WorkbenchError
from workbench.page.session.bench import Bench
from workbench.page.session.checkpoint_labels import label
from workbench.page.session.edit_lines import checked_edits
from workbench.page.session.prompts import typed_prompt, typed_text
from workbench.page.session.requests import Query, Selection
from workbench.page.session.strips import surprisal_strip


@dataclass(frozen=True)
class Pin:
    """A checkpoint, the text of the prompt box, whether that is a conversation, and the interventions, one a line."""

    checkpoint: str
    prompt: str
    chat: bool
    edits: str

    @classmethod
    def of(cls, query: Query) -> "Pin":
        """The pin of what a page shows."""
        return cls(query.checkpoint, typed_text(query.prompt), not isinstance(query.prompt, str), query.edits)

    @classmethod
    def read(cls, text: str) -> "Pin":
        """The pin that an address describes. Raises WorkbenchError if the text is not one of `written`."""
        try:
            found = json.loads(text)
            return cls(str(found["checkpoint"]), str(found["prompt"]), found["chat"] is True, str(found["edits"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise WorkbenchError("the pinned prompt of this link cannot be read; pin a prompt again") from error

    def written(self) -> str:
        """The pin as text, for an address."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def strip(self, bench: Bench) -> dict[str, Any]:
        """The strip of the pinned prompt's tokens, with their surprisal. The caller holds the model's lock.

        Errors: those of `Bench.read` and of the interventions.
        """
        opened = bench.read(self.checkpoint, typed_prompt(self.prompt, self.chat))
        edits = checked_edits(bench, opened, self.edits)
        where = [label(bench.known[opened.checkpoint]), *edits.splitlines()]
        title = " · ".join(["Pinned", *where])
        return surprisal_strip(bench, opened, Selection(), edits) | {"title": title, "spine": False, "pinned": True}
