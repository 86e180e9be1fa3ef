"""An error of a text box stands at the box, once, however many views read it."""

from urllib.parse import quote

import pytest
from headless import Headless, served
from small_series import PROMPT, small_bench

ELSEWHERE = "“Next token” cannot be used; see there."


@pytest.fixture(scope="module")
def client(tmp_path_factory, make_model, tokenizer):
    with served(small_bench(tmp_path_factory.mktemp("series"), make_model, tokenizer)) as client:
        yield client


def test_the_reason_stands_at_the_field_and_the_views_name_the_field(client):
    page = Headless(client, "fields", f"tab=Attribution&prompt={quote(PROMPT)}&token_text=w5+w6")
    page.values[page.ids["prompt"]] = PROMPT
    page.open()
    shown = list(page.values.values())
    reason = page.value("token_text-problem")
    assert "w5 w6" in reason and shown.count(reason) == 1 and shown.count(ELSEWHERE) == 5
    page.values[page.ids["token_text"]] = "w3"
    page.fire("token_text", "submit")
    assert page.value("token_text-problem") == "" and ELSEWHERE not in page.values.values()
    assert page.value("direct-tools")["title"] and page.failed == []
    page.values[page.find("Second prompt, of as many tokens")] = "w5"
    page.fire("Second prompt, of as many tokens", "submit")
    reason = page.value("second-problem")
    assert "has 1 tokens, but the prompt has 8" in reason and list(page.values.values()).count(reason) == 1
