"""The text that a command reads: plain text, or with --chat the turns of a conversation."""

import argparse
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from workbench.chat import Conversation, Span, Turn, end_tokens, replied, turns_of, typed
from workbench.command_line.common import LoadedCheckpoint, prompt_of
from workbench.errors import WorkbenchError


@dataclass(frozen=True)
class GivenText:
    """A text and its tokens, 1 pos.

    Attributes:
        text: as it was typed.
        tokens: their ids; of a conversation, those of the chat template too.
        turns: of a conversation.
        conversation: the turns as the chat template writes them; None for plain text.
    """

    text: str
    tokens: Tensor
    turns: tuple[Turn, ...] = ()
    conversation: Conversation | None = None

    def continued(self, more: str) -> str:
        """The text followed by the generated text `more`; of a conversation, all turns, with `more` as the last one."""
        return self.text + more if self.conversation is None else typed(replied(self.turns, more))

    def whose(self, position: int) -> str:
        """The turn of a token in words, for a heading; empty for plain text."""
        return "" if (found := self._turn(position)) is None else f", in turn {found[0]} ({found[1].role})"

    def with_turns(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with a row for each token; for a conversation with three more columns: the number of the turn, its
        role, and whether the token is part of the chat template. Generated tokens belong to the last turn."""
        if self.conversation is None:
            return table
        turns = [self._turn(position) for position in range(len(table))]
        written = [False] * (len(table) - len(self.conversation.template))
        return table.assign(
            turn=[0 if found is None else found[0] for found in turns],
            role=["" if found is None else found[1].role for found in turns],
            template=[*self.conversation.template, *written],
        )

    def _turn(self, position: int) -> tuple[int, Span] | None:
        """The number, from 1, and the span of a token's turn; None before the first turn, and for plain text."""
        spans = () if self.conversation is None else self.conversation.spans
        return next((one for one in reversed(list(enumerate(spans, 1))) if one[1].start <= position), None)


def add_chat(parser: argparse.ArgumentParser) -> None:
    """Add --chat and --system, which make the text a conversation."""
    parser.add_argument(
        "--chat",
        action="store_true",
        help="read TEXT as a conversation, with the tokenizer's chat template: a line that begins with system:, user: "
        "or assistant: begins a turn (\\user: does not); text before the first such line is a user's turn",
    )
    parser.add_argument("--system", metavar="TEXT", help="the system prompt of a conversation; implies --chat")


def given_text(args: argparse.Namespace, subject: LoadedCheckpoint) -> GivenText:
    """The text of the arguments, read by a checkpoint.

    Errors: WorkbenchError if it is empty or longer than the model's context, or if a conversation has a system prompt
    and --system gives another one; those of `Conversation.of`.
    """
    text = prompt_of(args)
    if not args.chat and args.system is None:
        return GivenText(text, subject.tokens(text))
    turns = turns_of(text)
    if args.system is not None:
        if any(turn.role == "system" for turn in turns):
            raise WorkbenchError("there is a system prompt in the text, and another one in --system; give one of them")
        turns = (Turn("system", args.system), *turns)
    conversation = Conversation.of(subject.tokenizer, turns)
    return GivenText(typed(turns), subject.fitting(conversation.ids), turns, conversation)


def end_ids(given: GivenText, subject: LoadedCheckpoint) -> list[int]:
    """The tokens that end a continuation: the model's end of text, and in a conversation those that end a turn."""
    end = subject.model.config.eos_token_id
    ends = [] if end is None else [end] if isinstance(end, int) else list(end)
    return ends if given.conversation is None else [*ends, *end_tokens(subject.tokenizer)]
