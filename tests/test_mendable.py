"""Errors that users can correct are shown as a sentence; bugs stay exceptions."""

import ast
import builtins
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import hooks.errors
from hooks import Capture, HooksError, edits
from hooks.errors import OutOfRange, UnknownSite, Unwritable, WrongType, WrongValue
from workbench import command_line
from workbench.errors import WorkbenchError
from workbench.mendable import MENDABLE

KINDS = {
    UnknownSite: KeyError,
    OutOfRange: IndexError,
    WrongValue: ValueError,
    WrongType: TypeError,
    Unwritable: OSError,
}
FAULTS = [KeyError("layer"), ValueError("bug"), IndexError("list index out of range"), TypeError("bug")]
SITE = "blocks.1.attn.z"


def test_what_is_mendable():
    assert (WorkbenchError, HooksError, torch.OutOfMemoryError) == MENDABLE
    assert not any(isinstance(fault, MENDABLE) for fault in FAULTS)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_the_hooks_are_of_pythons_kinds(kind):
    assert issubclass(kind, HooksError) and issubclass(kind, KINDS[kind])
    assert str(kind("a sentence, 'quoted'")) == "a sentence, 'quoted'"


def test_hooks_raise_no_error_but_their_own():
    """Every `raise` in the package raises one of its own errors, or a caught one again."""
    names = {kind.__name__ for kind in KINDS} | {"AllSeen"}
    raised = {
        f"{path.name}: {node.exc.func.id}"
        for path in Path(hooks.errors.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }
    assert raised and not [one for one in raised if one.split(": ")[1] not in names]
    assert not names & set(vars(builtins))


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda model, ids: model.run(ids, capture="blocks.1.nothing"), UnknownSite),
        (lambda model, ids: model.run(ids)["embed"], UnknownSite),
        (lambda model, ids: model.run(ids, capture="embed").stack("attn.z"), UnknownSite),
        (lambda model, ids: model.run(ids, capture=3), WrongType),
        (lambda model, ids: model.run(ids, capture=[3]), WrongType),
        (lambda model, ids: model.run(ids, edits=3), WrongType),
        (lambda model, ids: model.run(ids, capture=Capture(SITE, heads=[4])), OutOfRange),
        (lambda model, ids: model.run(ids, edits=edits.zero(SITE, positions=[14])), OutOfRange),
        (lambda model, ids: model.run(ids, stop_at_layer=9), OutOfRange),
        (lambda model, ids: model.run(ids + 99), WrongValue),
        (lambda model, ids: model.run(ids.float()), WrongValue),
        (lambda model, ids: model.run(ids[0]), WrongValue),
        (lambda model, ids: model.run("a text"), WrongValue),
        (lambda model, ids: model.run(None), WrongValue),
        (lambda model, ids: model.run(resid=[1.0], start_at_layer=1), WrongValue),
        (lambda model, ids: model(), WrongValue),
        (lambda model, ids: edits.clamp(SITE), WrongValue),
        (lambda model, ids: edits.zero(SITE, heads=0.5), WrongType),
        (lambda model, ids: model.generate(ids, max_new_tokens=1, capture="nowhere"), UnknownSite),
        (lambda model, ids: model.run(ids, edits=edits.add(SITE, torch.zeros(3))), WrongValue),
        (lambda model, ids: model.run(ids, start_at_layer=0.5, resid=torch.zeros(2, 14, 32)), WrongType),
    ],
)
def test_a_users_mistake_is_an_error_of_the_hooks(model, tokens, call, kind):
    with pytest.raises(kind) as error:
        call(model, tokens)
    assert len(str(error.value).split()) > 4


def test_an_error_of_an_edits_own_function_stays_as_it_is(model, tokens):
    def broken(x):
        raise KeyError("mine")

    with pytest.raises(KeyError) as error:
        model.run(tokens, edits=edits.apply(SITE, broken))
    assert not isinstance(error.value, HooksError)


# Where the sentences are shown


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_fault_is_not_shown_as_a_sentence_on_the_page(fault):
    from workbench.page.build.slot import guarded

    def work(error):
        def render(request, told):
            raise error

        return list(guarded(render, 1, False)(SimpleNamespace(_data=None), request="due"))

    ((said, _),) = work(UnknownSite("no site 'x'; choices: y"))
    assert said == "no site 'x'; choices: y"
    with pytest.raises(type(fault)):
        work(fault)


@pytest.mark.parametrize("error", [UnknownSite("no site 'x'"), torch.OutOfMemoryError("no room"), *FAULTS], ids=repr)
def test_the_command_line_says_what_can_be_mended(monkeypatch, capsys, error):
    def run(args):
        raise error

    lens = command_line.submodule("lens")
    monkeypatch.setattr(lens, "run", run)
    if isinstance(error, MENDABLE):
        assert command_line.main(["lens", "a text"]) == 1
        assert str(error) in capsys.readouterr().err
    else:
        with pytest.raises(type(error)):
            command_line.main(["lens", "a text"])
