"""Heads and positions by number, by mask and by text: what they select, and what is refused."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from hooks import Capture, HooksError, edits

Z, PATTERN, RESID = "blocks.1.attn.z", "blocks.1.attn.pattern", "blocks.1.resid_post"
BY_TEXT = [[2, 13, 5], [0, 7, -1]]  # positions of each of the two texts
MASK = torch.zeros(2, 14, dtype=torch.bool)
MASK[0, [2, 5, 13]] = MASK[1, [0, 13]] = True  # three in one text, two in the other


def chosen(model, tokens, site: str, **where) -> Tensor:
    """A mask of the places where an edit that sets a site to 7 took effect."""
    return model.run(tokens, capture=site, edits=[edits.replace(site, 7.0, **where)])[site] == 7


def places(rows: list[list[int]]) -> Tensor:
    """batch pos, True at these positions of each text."""
    found = torch.zeros(len(rows), 14, dtype=torch.bool)
    for row, numbers in zip(found, rows, strict=True):
        row[numbers] = True
    return found


# Masks


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_a_mask_of_any_kind_selects_where_it_is_true(model, tokens, kind):
    wanted = torch.zeros(14, dtype=torch.bool)
    wanted[[1, 6, 11]] = True
    mask = kind(wanted.tolist())
    assert torch.equal(chosen(model, tokens, RESID, positions=mask), wanted[None, :, None].expand(2, 14, 32))
    whole = model.run(tokens, capture=RESID)[RESID]
    part = model.run(tokens, capture=Capture(RESID, positions=mask))[RESID]
    assert torch.equal(part, whole[:, wanted])
    heads = kind([False, True, True, False])
    assert chosen(model, tokens, Z, heads=heads).all((0, 1, 3)).tolist() == [False, True, True, False]
    assert torch.equal(
        model.run(tokens, capture=Capture(Z, heads=heads))[Z], model.run(tokens, capture=Z)[Z][:, :, 1:3]
    )


@pytest.mark.parametrize(
    ("where", "mentions"),
    [
        ({"positions": [True, False]}, "a mask of 2 positions does not fit this sequence of 14 positions"),
        ({"positions": torch.ones(13, dtype=torch.bool)}, "13.*14"),
        ({"positions": torch.ones(15, dtype=torch.bool)}, "15.*14"),
        ({"positions": torch.ones(3, 14, dtype=torch.bool)}, "3 texts.*batch has 2"),
        ({"positions": torch.ones(2, 13, dtype=torch.bool)}, "13.*14"),
        ({"positions": torch.ones(2, 2, 14, dtype=torch.bool)}, "positions must be"),
        ({"positions": torch.tensor([[0], [1], [2]])}, "3 texts.*batch has 2"),
        ({"positions": [[1, 2], [14, 3]]}, "position 14 is outside this sequence of 14 positions"),
        ({"positions": [[1, 2], [-15, 3]]}, "-15"),
        ({"positions": [[1, 2], [3]]}, "equal length"),
        ({"positions": [[1], 2]}, "positions must be"),
        ({"positions": [True, 2]}, "positions must be only numbers or only bools"),
        ({"positions": True}, "True"),
        ({"positions": [0.5]}, "0.5"),
        ({"positions": "3"}, "3"),
        ({"positions": torch.ones(2, 14, dtype=torch.long)}, "mask"),
        ({"positions": [0, 0, 1, 1]}, "mask"),
        ({"heads": [True, False]}, "a mask of 2 heads does not fit the 4 heads of 'blocks.1.attn.z'"),
        ({"heads": [[0], [1]]}, "same for all texts"),
        ({"heads": [4]}, "head 4 is outside the 4 heads"),
        ({"heads": [-5]}, "head -5"),
    ],
)
def test_what_fits_no_axis_is_refused(model, tokens, where, mentions):
    with pytest.raises(HooksError, match=mentions) as error:
        model.run(tokens, edits=[edits.zero(Z, **where)])
    assert len(str(error.value)) > 20
    with pytest.raises(HooksError):
        model.run(tokens, capture=Capture(Z, **where))


def test_heads_count_from_the_end(pair, tokens):
    model, groups = pair.ours, pair.ours.config.num_key_value_heads
    for site, size in ((Z, 4), (PATTERN, 4), ("blocks.1.attn.k", groups)):
        run, last = model.run(tokens, capture=site), Capture(site, heads=-1)
        axis = 1 if site == PATTERN else 2
        whole, part = run[site], model.run(tokens, capture=last)[site]
        torch.testing.assert_close(part, whole.narrow(axis, size - 1, 1), rtol=1e-4, atol=5e-5)
        by_number, from_end = (model.run(tokens, edits=[edits.zero(site, heads=[h])]).logits for h in (size - 1, -1))
        assert torch.equal(by_number, from_end)
        assert not torch.equal(by_number, run.logits)


# Positions of each text


@pytest.mark.parametrize("site", ["embed", RESID, Z, PATTERN, "blocks.1.attn.k", "blocks.0.mlp.post", "logits"])
@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (BY_TEXT, places(BY_TEXT)),
        (torch.tensor(BY_TEXT), places(BY_TEXT)),
        (np.array(BY_TEXT), places(BY_TEXT)),
        (MASK, MASK),
        (MASK.tolist(), MASK),
    ],
    ids=["list", "tensor", "array", "mask", "mask in lists"],
)
def test_edits_at_positions_of_each_text(model, tokens, site, where, wanted):
    found = chosen(model, tokens, site, positions=where)
    spread = [2, 1, 14, 1] if site == PATTERN else [2, 14] + [1] * (found.dim() - 2)
    assert torch.equal(found, wanted.view(spread).expand_as(found))


def test_edits_at_heads_and_positions_of_each_text(model, tokens):
    for site, axis in ((Z, 2), (PATTERN, 1)):
        found = chosen(model, tokens, site, heads=[-1, 0], positions=BY_TEXT)
        assert not found.index_select(axis, torch.tensor([1, 2])).any()
        kept = found.index_select(axis, torch.tensor([0, 3])).all(-1)
        assert torch.equal(kept.all(axis), places(BY_TEXT)) and torch.equal(kept.any(axis), places(BY_TEXT))


def test_the_function_sees_what_is_selected(model, tokens):
    clean, seen = model.run(tokens, capture=RESID)[RESID], []
    swap = edits.apply(RESID, lambda x: seen.append(x) or x.flip(0), positions=BY_TEXT)
    run = model.run(tokens, capture=RESID, edits=[swap])[RESID]
    rows = torch.tensor(BY_TEXT)
    picked = clean[torch.arange(2)[:, None], rows]
    assert torch.equal(seen[0], picked)
    assert torch.equal(run[torch.arange(2)[:, None], rows], picked.flip(0))
    assert torch.equal(run[~places(BY_TEXT)], clean[~places(BY_TEXT)])


@pytest.mark.parametrize("where", [{"positions": BY_TEXT}, {"positions": MASK}, {"positions": MASK, "heads": [1, -1]}])
def test_an_identity_edit_at_positions_of_each_text_changes_no_bit(model, tokens, where):
    clean = model.run(tokens).logits
    for site in (Z, PATTERN):
        assert torch.equal(model.run(tokens, edits=[edits.apply(site, torch.clone, **where)]).logits, clean)


def test_values_at_positions_of_each_text(model, tokens, other_tokens):
    """A value has a row for each selected position, or, with masks, a row for each position of the sequence."""
    clean, other = (model.run(ids, capture=RESID)[RESID] for ids in (tokens, other_tokens))
    rows = torch.tensor(BY_TEXT)
    picked = other[torch.arange(2)[:, None], rows]
    by_number = edits.replace(RESID, picked, positions=BY_TEXT)
    by_mask = edits.replace(RESID, other, positions=MASK)
    for edit, mask in ((by_number, places(BY_TEXT)), (by_mask, MASK)):
        found = model.run(tokens, capture=RESID, edits=[edit])[RESID]
        assert torch.equal(found, torch.where(mask[..., None], other, clean))
    one = model.run(tokens, capture=RESID, edits=[edits.replace(RESID, picked[:1], positions=BY_TEXT)])[RESID]
    assert torch.equal(one[torch.arange(2)[:, None], rows], picked[:1].expand(2, -1, -1))
    with pytest.raises(HooksError, match="has 14 positions, but 3 are selected"):
        model.run(tokens, edits=[edits.replace(RESID, other, positions=BY_TEXT)])
    with pytest.raises(HooksError, match="3 texts"):
        model.run(tokens, edits=[edits.replace(RESID, torch.zeros(3, 3, 32), positions=BY_TEXT)])


@pytest.mark.parametrize("name", ["resid_post", "attn.z", "attn.result", "attn.pattern", "attn.scores", "attn.k_raw"])
def test_captures_of_positions_of_each_text(pair, tokens, name):
    site = f"blocks.2.{name}"
    heads = {} if name == "resid_post" else {"heads": [0, -1]}
    whole = pair.ours.run(tokens, capture=Capture(site, **heads))[site]
    found = pair.ours.run(tokens, capture=Capture(site, positions=torch.tensor(BY_TEXT), **heads))[site]
    axis = 2 if name in ("attn.pattern", "attn.scores") else 1
    wanted = torch.stack(
        [row.index_select(axis - 1, torch.tensor(at) % 14) for row, at in zip(whole, BY_TEXT, strict=True)]
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=5e-5)


def test_statistics_of_queries_of_each_text(model, tokens):
    def weight(pattern: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        return torch.stack([pattern.amax(-1), queries.expand(pattern.shape[:3]).float()])

    capture = Capture(PATTERN, queries=BY_TEXT, reduce=weight)
    for explicit in ({}, {"edits": [edits.apply(PATTERN, torch.clone)]}):
        whole = model.run(tokens, capture=Capture(PATTERN, reduce=weight), **explicit)[PATTERN]
        found = model.run(tokens, capture=capture, **explicit)[PATTERN]
        assert found.shape == (2, 2, 4, 3)
        for text, row in enumerate(BY_TEXT):
            torch.testing.assert_close(found[:, text], whole[:, text][..., row])
            assert found[1, text, 0].tolist() == [position % 14 for position in row]


def test_captured_masks_of_each_text_are_refused():
    with pytest.raises(HooksError, match="mask for each text"):
        Capture(RESID, positions=MASK)


# Cached texts


def test_positions_of_each_text_count_in_the_whole_sequence(model, tokens):
    """A text is run in two pieces through a cache: positions of an edit count from the start of the text, not of the
    piece, and may differ between texts.
    """
    rows = [[2, 12], [11, 4]]
    change = edits.scale(Z, 0.5, positions=rows)
    whole = model.run(tokens, edits=[change]).logits
    cache = DynamicCache(config=model.config)
    with model.tapped(edits=[change]):
        pieces = [model(piece, past_key_values=cache).logits for piece in tokens.split([10, 4], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=5e-5)
    mask = edits.scale(Z, 0.5, positions=places(rows))
    assert torch.equal(model.run(tokens, edits=[mask]).logits, whole)
    with model.tapped(edits=[mask]), pytest.raises(HooksError, match=r"14 positions.*10 positions"):
        model(tokens[:, :10])  # a part of the text that the mask was made for


def test_a_capture_that_holds_more_for_one_text_is_refused(model, tokens):
    cache = DynamicCache(config=model.config)
    model.run(tokens[:, :10], past_key_values=cache)
    capture = Capture(RESID, positions=[[3, 11], [12, 13]])
    with pytest.raises(HooksError, match="for some texts"):
        model.run(tokens[:, 10:], past_key_values=cache, capture=capture)


def test_masks_hold_while_a_text_grows(model, tokens):
    """A mask of the prompt selects nothing of what is generated after it; a wrong one is refused at the prompt."""
    mask = torch.zeros(14, dtype=torch.bool)
    mask[[3, 4]] = True
    options = {"max_new_tokens": 4, "do_sample": False}
    by_number = model.generate(tokens, edits=[edits.zero(Z, positions=[3, 4])], **options)
    assert torch.equal(model.generate(tokens, edits=[edits.zero(Z, positions=mask)], **options), by_number)
    by_text = mask.expand(2, -1)
    assert torch.equal(model.generate(tokens, edits=[edits.zero(Z, positions=by_text)], **options), by_number)
    with pytest.raises(HooksError, match=r"13.*14"):
        model.generate(tokens, edits=[edits.zero(Z, positions=mask[:13])], **options)
