"""Conversations: the template's own tokens, whose each token is, turns as text, and replies of all three families."""

import random
import sys
from io import BytesIO, TextIOWrapper
from itertools import pairwise

import pandas as pd
import pytest
import torch
from chat_templates import TEMPLATES, VOCAB, chat_tokenizer

from workbench import chat, checkpoints, generation
from workbench.analyses.logit_lens import logit_lens
from workbench.chat import Conversation, Turn, end_tokens, ending, messages, replied, turns_of, typed
from workbench.command_line import main
from workbench.errors import WorkbenchError

DIALOGUES = [
    "user: Hi",
    "user: Hi.\nassistant: Hi the",
    "system: Be brief.\nuser: Hi.\n\nassistant: Hi. \nuser: the end",
    "user: the same\nassistant: the same\nuser: the same",
    "user: <|im_end|> and <|endoftext|> are text here",
    "user:   spaces at both ends   \nassistant: \\\nblank lines\n\\",
    "user: 語 and 🦜",
]
ALTERNATING = (  # like templates of other families: white space is removed, and roles must take turns
    "{% for turn in messages %}{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' ~ turn.role ~ '\n' ~ turn.content | trim ~ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module", params=TEMPLATES)
def tokenizer(request):
    return chat_tokenizer(TEMPLATES[request.param])


def parts(tokenizer, conversation, span):
    """The text of a span's tokens: that of the template before the content, the content, the template's after it."""
    ids = conversation.ids[0].tolist()
    inside = [place for place in range(span.start, span.stop) if not conversation.template[place]]
    first, last = (inside[0], inside[-1] + 1) if inside else (span.stop, span.stop)
    bounds = (span.start, first, last, span.stop)
    return [tokenizer.decode(ids[start:stop]) for start, stop in pairwise(bounds)]


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_the_ids_are_those_of_the_tokenizers_own_template(tokenizer, dialogue):
    turns = turns_of(dialogue)
    own = tokenizer.apply_chat_template(messages(turns), return_tensors="pt", **ending(turns))["input_ids"]
    assert torch.equal(Conversation.of(tokenizer, turns).ids, own)


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_spans_follow_one_another_and_hold_the_contents(tokenizer, dialogue):
    turns = turns_of(dialogue)
    conversation = Conversation.of(tokenizer, turns)
    spans = conversation.spans
    roles = [turn.role for turn in turns]
    assert [span.role for span in spans] == (roles if roles[-1] == "assistant" else [*roles, "assistant"])
    assert all(one.stop == other.start for one, other in pairwise(spans))
    assert spans[-1].stop == conversation.ids.shape[1] == len(conversation.template)
    assert all(conversation.template[: spans[0].start])
    for span, turn in zip(spans, turns, strict=False):
        assert turn.content in parts(tokenizer, conversation, span)[1]
    assert tokenizer.decode(conversation.ids[0]) == conversation.text


def test_each_turn_has_its_own_markup():
    text = "system: A\nuser: B\nassistant: C\nuser: D"
    for template, expected in (
        (
            "OLMo 2",
            ["<|system|>\n|A|\n", "<|user|>\n|B|\n", "<|assistant|>\n|C|<|endoftext|>\n", "<|user|>\n|D|\n"],
        ),
        (
            "OLMo 3",
            [
                "<|im_start|>system\n|A| You do not currently have access to any functions. <functions></functions>"
                "<|im_end|>\n",
                *(f"<|im_start|>{role}\n|{content}|<|im_end|>\n" for role, content in turns_of_roles("B", "C", "D")),
            ],
        ),
    ):
        tokenizer = chat_tokenizer(TEMPLATES[template])
        conversation = Conversation.of(tokenizer, turns_of(text))
        *found, reply = ["|".join(parts(tokenizer, conversation, span)) for span in conversation.spans]
        assert found == expected
        assert reply == {"OLMo 2": "<|assistant|>\n||", "OLMo 3": "<|im_start|>assistant\n||"}[template]


def turns_of_roles(*contents):
    return zip(("user", "assistant", "user"), contents, strict=True)


def test_what_the_template_adds_before_the_first_turn_belongs_to_none():
    tokenizer = chat_tokenizer(TEMPLATES["OLMo 3"])
    conversation = Conversation.of(tokenizer, [Turn("user", "Hi")])
    before = tokenizer.decode(conversation.ids[0, : conversation.spans[0].start])
    assert before.startswith("<|im_start|>system\nYou are a helpful") and before.endswith("</functions><|im_end|>\n")


def test_a_token_of_content_and_template_is_content():
    tokenizer = chat_tokenizer(TEMPLATES["OLMo 2"])
    conversation = Conversation.of(tokenizer, [Turn("user", "Hi.")])
    joined = conversation.ids[0].tolist().index(tokenizer.convert_tokens_to_ids(".Ċ"))
    assert not conversation.template[joined] and conversation.template[joined + 1]


def test_templates_that_remove_white_space_or_need_alternating_roles():
    tokenizer = chat_tokenizer(ALTERNATING)
    conversation = Conversation.of(tokenizer, turns_of("user:   Hi  \nassistant: the\nuser: end\n"))
    found = ["|".join(parts(tokenizer, conversation, span)) for span in conversation.spans]
    assert found[:3] == [f"<|im_start|>{r}\n|{c}|<|im_end|>\n" for r, c in turns_of_roles("Hi", "the", "end")]
    with pytest.raises(WorkbenchError, match="roles must alternate"):
        Conversation.of(tokenizer, turns_of("user: Hi\nuser: Hi"))


def test_a_template_may_cut_a_content():
    after_thought = "{% for turn in messages %}{{ '<' ~ turn.content.split('</think>')[-1] ~ '>' }}{% endfor %}"
    tokenizer = chat_tokenizer(after_thought)
    conversation = Conversation.of(tokenizer, [Turn("assistant", "<think>hm</think>yes"), Turn("user", "Hi")])
    assert [parts(tokenizer, conversation, span) for span in conversation.spans[:2]] == [
        ["<", "yes", ">"],
        ["<", "Hi", ">"],
    ]


@pytest.mark.parametrize(
    ("template", "turns", "said"),
    [
        (None, [Turn("user", "Hi")], "no chat template"),
        (TEMPLATES["OLMo 2"], [], "no turns"),
        (TEMPLATES["OLMo 2"], [Turn("user", "Hi"), Turn("assistant", " ")], r"turn 2 \(assistant\) is empty"),
        (TEMPLATES["OLMo 2"], [Turn("user", "a\ud800")], r"turn 1 \(user\) contains half of a surrogate"),
        ("{% for turn in messages %}", [Turn("user", "Hi")], "the chat template fails .*endfor"),
        ("{{ messages[0].content + 1 }}", [Turn("user", "Hi")], "the chat template fails"),
        ("{{ messages[0].content }}", [Turn("user", "Hi"), Turn("user", "Ho")], r"leaves out turn 2 \(user\)"),
        ("{{ messages[0].content | length }}", [Turn("user", "Hi")], "rewrites the turns"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", [Turn("user", "Hi")], "the chat template fails .* unsafe"),
        (
            "{% set _ = messages.append(1) %}",
            [Turn("user", "Hi")],
            "the chat template fails .* unsafe|immutable|safely",
        ),
        ("{% include '/etc/passwd' %}", [Turn("user", "Hi")], "the chat template fails"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", [Turn("user", "Hi")], "the chat template fails"),
    ],
)
def test_what_cannot_be_read_is_said(template, turns, said):
    with pytest.raises(WorkbenchError, match=said):
        Conversation.of(chat_tokenizer(template), turns)


def test_a_wrong_role_is_said_with_the_choices():
    with pytest.raises(WorkbenchError, match=r"no role 'bot'; .* system, user, assistant"):
        Turn("bot", "Hi")


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("", []),
        ("Hi", [("user", "Hi")]),
        ("Hi\n\nthere\n", [("user", "Hi\n\nthere")]),
        ("user:Hi", [("user", "Hi")]),
        (
            "system:\nBe brief.\n\nuser: Hi\n\n\nassistant: Ho",
            [("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho")],
        ),
        ("user: a\n\\user: b\n\\\\user: c\n\\begin{x}", [("user", "a\nuser: b\n\\user: c\n\\begin{x}")]),
        ("user: \\\na\n\\", [("user", "\na\n")]),
        ("User: a", [("user", "User: a")]),
        ("Hi\nassistant:", [("user", "Hi"), ("assistant", "")]),
    ],
)
def test_turns_as_text(text, turns):
    assert turns_of(text) == tuple(Turn(*turn) for turn in turns)


def test_turns_written_as_text_are_the_same_turns():
    draw = random.Random(0)
    pieces = ["user:", "assistant: x", "\\", "\\\\", "\n", "\n\n", " ", "a", "system", ": ", "\r", "\t", "\u2028", "語"]
    for _ in range(2000):
        contents = ["".join(draw.choices(pieces, k=draw.randrange(7))) for _ in range(draw.randrange(5))]
        turns = tuple(Turn(draw.choice(chat.ROLES), content) for content in contents)
        assert turns_of(typed(turns)) == turns


def test_a_reply_is_a_new_turn_or_goes_on_with_the_last():
    asked = turns_of("user: Hi")
    assert replied(asked, "Ho") == (*asked, Turn("assistant", "Ho"))
    assert replied(turns_of("user: Hi\nassistant: H"), "o") == (*asked, Turn("assistant", "Ho"))


def test_end_tokens_are_those_after_the_assistants_turn():
    for template, names in (
        (TEMPLATES["OLMo 2"], ["<|endoftext|>"]),
        (TEMPLATES["OLMo 3"], ["<|endoftext|>", "<|im_end|>"]),
        (ALTERNATING, ["<|endoftext|>", "<|im_end|>"]),
        ("{% for turn in messages %}{{ turn.role ~ ': ' ~ turn.content ~ '\n' }}{% endfor %}", ["<|endoftext|>"]),
        (None, ["<|endoftext|>"]),
    ):
        tokenizer = chat_tokenizer(template)
        assert tokenizer.convert_ids_to_tokens(list(end_tokens(tokenizer))) == names


@pytest.mark.parametrize("dialogue", DIALOGUES[:3])
def test_an_open_turn_is_a_beginning_of_the_finished_one(tokenizer, dialogue):
    """Reading a conversation that ends with a reply gives the ids of the prompt before, then those of the reply."""
    asked = turns_of(dialogue)
    asked = asked[:-1] if asked[-1].role == "assistant" else asked
    before = Conversation.of(tokenizer, asked)
    after = Conversation.of(tokenizer, replied(asked, "the reply"))
    length = before.ids.shape[1]
    assert torch.equal(after.ids[:, :length], before.ids)
    assert tokenizer.decode(after.ids[0, length:]) == "the reply"
    assert after.spans[-1].start == before.spans[-1].start
    assert not any(after.template[length:])


@pytest.mark.slow
def test_a_model_of_each_family_reads_and_answers(make_model, family, tokenizer):
    model = make_model(family, vocab_size=VOCAB, max_position_embeddings=512)
    conversation = Conversation.of(tokenizer, turns_of("system: Be brief.\nuser: Hi."))
    ends = end_tokens(tokenizer)
    options = {"max_new_tokens": 12, "temperature": 3.0, "stop_at": ends}
    for seed in range(8):
        written = generation.generate(model, conversation.ids, seed=seed, tokenizer=tokenizer, **options)
        reply = written.ids[written.given :]
        assert written.ids[: written.given] == tuple(conversation.ids[0].tolist())
        assert not set(reply[:-1]) & set(ends) and (len(reply) == 12 or reply[-1] in ends)
    lens = logit_lens(model, conversation.ids, tokenizer=tokenizer)
    assert lens["probability"].values.shape[1] == conversation.ids.shape[1]


@pytest.fixture(scope="module", params=TEMPLATES)
def instruct(request, tmp_path_factory, make_model):
    """A checkpoint on disk whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("instruct") / "step5"
    make_model("olmo3", vocab_size=VOCAB).save_pretrained(folder)
    chat_tokenizer(TEMPLATES[request.param]).save_pretrained(folder)
    return str(folder)


def table_of(path):
    return pd.read_csv(path, comment="#", keep_default_na=False, na_values=[""])


def test_generate_answers_in_a_conversation(instruct, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.csv"
    ending = ["--checkpoint", instruct, "--tokens", "9", "--csv", str(out)]
    assert main(["generate", "user: Hi.\nuser: the end", "--chat", "--system", "Be brief.", *ending]) == 0
    printed = capsys.readouterr().out
    text = "system: Be brief.\nuser: Hi.\nuser: the end\nassistant: "
    assert printed.startswith(text)
    rows = table_of(out)
    conversation = Conversation.of(checkpoints.tokenizer_of(instruct), turns_of(text.removesuffix("\nassistant: ")))
    given = rows[rows["given"]]
    assert given["id"].tolist() == conversation.ids[0].tolist()
    assert given["template"].tolist() == list(conversation.template)
    turns = [number for number, span in enumerate(conversation.spans, 1) for _ in range(span.start, span.stop)]
    assert given["turn"].tolist() == [0] * conversation.spans[0].start + turns
    new = rows[~rows["given"]]
    assert set(new["turn"]) == {4} and set(new["role"]) == {"assistant"} and not new["template"].any()
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(f"{text}the".encode())))
    assert main(["generate", "-", "--chat", *ending]) == 0
    assert capsys.readouterr().out.startswith(f"{text}the")
    assert table_of(out)["id"].tolist()[: len(given)] == given["id"].tolist()


@pytest.mark.slow
def test_generate_ends_with_the_turn(instruct, tmp_path):
    out = tmp_path / "out.csv"
    ends = end_tokens(checkpoints.tokenizer_of(instruct))
    for seed in range(3):
        arguments = ["generate", "Hi", "--chat", "--checkpoint", instruct, "--tokens", "150", "--temperature", "5"]
        assert main([*arguments, "--seed", str(seed), "--csv", str(out)]) == 0
        rows = table_of(out)
        ids = rows[~rows["given"]]["id"].tolist()
        assert len(ids) == 150 or ids[-1] in ends
        assert not set(ids[:-1]) & set(ends)


def test_lens_reads_a_conversation(instruct, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["lens", "Hi.", "--chat", "--checkpoint", instruct, "--csv", str(out)]) == 0
    assert "in turn 2 (assistant)" in capsys.readouterr().out
    model, tokenizer = checkpoints.load(instruct)
    conversation = Conversation.of(tokenizer, [Turn("user", "Hi.")])
    expected = logit_lens(model, conversation.ids, tokenizer=tokenizer).table()
    assert (table_of(out)["kl"] - expected["kl"]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["Hi", "--chat", "--checkpoint", "tiny-olmo"], "no chat template"),
        (["system: a\nuser: Hi", "--system", "b"], "another one in --system"),
        (["", "--chat"], "there are no turns"),
        (["user: Hi\nassistant:", "--chat"], "turn 2 (assistant) is empty"),
        (["user: " + 5000 * "Ho ", "--chat"], "takes 1 to 4096"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "lens"])
def test_what_is_no_conversation_is_said(command, arguments, sentence, instruct, capsys):
    at = [] if "--checkpoint" in arguments else ["--checkpoint", instruct]
    assert main([command, *arguments, *at]) == 1
    assert sentence in capsys.readouterr().err
