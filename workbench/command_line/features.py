"""Dictionaries of features: train one, scan texts, show a card, read labels from few features, or list births."""

import argparse
import math
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from hooks import OlmoForCausalLM
from workbench import features
from workbench.analyses.support.label_classifiers import checked_labels
from workbench.analyses.support.labels import labels_of
from workbench.checkpoints.names import split_id
from workbench.command_line.common import (
    LoadedCheckpoint,
    add_loading_arguments,
    add_seed,
    add_texts,
    bar,
    checked_seed,
    ids_of,
    opened_checkpoint,
    positive,
    provenance,
    state_price,
    texts_of,
    whole,
)
from workbench.command_line.probe import add_position
from workbench.corpus.training_text import prepared_text
from workbench.errors import WorkbenchError
from workbench.interventions import set_or_file
from workbench.report import Report, Section
from workbench.results import Curves
from workbench.texts import Texts

EXAMPLES = """
  python -m workbench features train tiny-olmo@step6000 --site blocks.2.resid_post --features 2048 --k 16
  python -m workbench features train tiny-olmo --site blocks.1.mlp_in --writes blocks.1.mlp_out --out mlp1
  python -m workbench features scan tiny-olmo@step6000/blocks.2.resid_post --texts tiny-olmo/english --csv scan.csv
  python -m workbench features card tiny-olmo@step6000/blocks.2.resid_post 417 --prompt "The cat" --strengths 0 2
  python -m workbench features probe tiny-olmo@step6000/blocks.2.resid_post --texts tiny-olmo/number
  python -m workbench features born tiny-olmo --csv births.csv
  python -m workbench features born tiny-olmo --without 469 949 252 --html births.html
"""
SAVED = ("probe", "born")  # actions with results for `--save`; the others write tables and folders
BORN_ON = ("tiny-olmo/english", "tiny-olmo/code", "tiny-olmo/repeats")  # texts of `born` without --texts
PROBED = "tiny-olmo/number"  # texts of `probe` without --texts, and of the measures of `train`
PROBED_KS = (1, 5)  # numbers of features from which labels are read in the measures of `train`
ROW = 128  # tokens of a row of the training text
HELD_OUT = 10  # one text of every ten is held out of training
SHOWN_OF_BIRTHS = ("feature", "born", "born scaled", "died", "largest", "apart", "ends", "count", "family")
SHOWN = 20  # features and examples that are shown on the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    parser.add_argument(
        "action",
        choices=list(ACTIONS),
        help="train a dictionary; scan texts; show a card; probe: how well labels are read from few features; born: "
        "list births",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="train: a checkpoint, or several for a crosscoder; scan: a dictionary (embedded, a folder, or a "
        "repository of the hub); card: a dictionary and the number of a feature; probe: a dictionary; born: a "
        "crosscoder, or a series with an embedded one (default: tiny-olmo)",
    )
    add_texts(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder of the dictionary or scan; an interrupted run goes on there"
    )
    for add in (train_arguments, card_arguments, probe_arguments, born_arguments):
        add(parser)
    add_seed(parser, "seed of the weights, of the order of texts and of random groups")
    add_loading_arguments(parser)


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that only train reads."""
    group = parser.add_argument_group("train")
    group.add_argument("--site", metavar="SITE", help="the site that is read, such as blocks.2.resid_post")
    group.add_argument("--writes", metavar="SITE", help="the site that a transcoder writes (default: --site, an SAE)")
    group.add_argument(
        "--features", type=positive, default=2048, metavar="N", help="number of features (default: 2048)"
    )
    group.add_argument("--k", type=positive, default=16, metavar="N", help="active features per token (default: 16)")
    group.add_argument(
        "--gate",
        choices=("batchtopk", "topk"),
        default="batchtopk",
        help="active features: the k × tokens largest of a batch, or the k largest of each token (default: batchtopk)",
    )
    group.add_argument(
        "--tokens", type=positive, default=3_276_800, metavar="N", help="tokens to train on (default: 3,276,800)"
    )
    group.add_argument(
        "--learning-rate", type=float, default=3e-3, metavar="X", help="learning rate of Adam (default: 0.003)"
    )
    group.add_argument(
        "--probed",
        default=PROBED,
        metavar="SET",
        help="a built-in set with labels, or a file with the columns text and label: the measures say how well the "
        "labels are read at the last token from the best 1 and 5 features, as in probe; none leaves this out "
        f"(default: {PROBED}, less than a second at 2048 features)",
    )
    group.add_argument("--half", action="store_true", help="compute the encoder in bfloat16, which is faster")


def card_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that only card reads."""
    group = parser.add_argument_group("card")
    group.add_argument("--prompt", metavar="TEXT", help="a text to continue while the feature is steered")
    group.add_argument(
        "--strengths",
        type=float,
        nargs="+",
        default=[0.0, 1.0, 2.0],
        metavar="X",
        help="strengths to steer with, as multiples of the feature's largest activation (default: 0 1 2)",
    )
    group.add_argument(
        "--others", nargs="+", default=[], metavar="NAME", help="further dictionaries in which neighbours are searched"
    )


def probe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that only probe reads."""
    group = parser.add_argument_group("probe")
    add_position(parser)
    group.add_argument(
        "--best", type=positive, nargs="+", default=[1, 2, 5], metavar="K", help="numbers of features (default: 1 2 5)"
    )


def born_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that only born reads."""
    group = parser.add_argument_group("born")
    group.add_argument(
        "--weights-only", action="store_true", help="births from the weights alone, without running models"
    )
    group.add_argument(
        "--sort", default="born", metavar="COLUMN", help="column to sort the features by (default: born)"
    )
    group.add_argument("--need", action="store_true", help="estimate the loss without each feature at each checkpoint")
    group.add_argument(
        "--without",
        type=whole,
        nargs="+",
        default=[],
        metavar="N",
        help="features to ablate together: the loss without them at each checkpoint, beside random groups",
    )
    group.add_argument(
        "--last",
        type=positive,
        metavar="N",
        help="for --without: measure only the last N tokens of each text (default: all)",
    )


def run(args: argparse.Namespace) -> Report:
    """The report of the action. Errors: WorkbenchError if NAME is missing."""
    if not args.names and args.action != "born":
        raise WorkbenchError(f"features {args.action} needs a NAME; see python -m workbench features --help")
    if args.save is not None and args.action not in SAVED:
        raise WorkbenchError(f"features {args.action} has no results to --save; it writes tables and folders")
    return ACTIONS[args.action](args)


def train(args: argparse.Namespace) -> Report:
    """Train a dictionary and write it; returns its measures on held-out texts."""
    if not args.site:
        raise WorkbenchError("train needs a --site, such as blocks.2.resid_post")
    seed, batch = checked_seed(args), 2048
    settings = features.TrainingSettings(
        features=args.features,
        k=args.k,
        gate=args.gate,
        batches=math.ceil(args.tokens / batch),
        learning_rate=args.learning_rate,
        half=args.half,
        seed=seed,
    )
    subjects = [opened_checkpoint(args, name) for name in args.names]
    texts, held_out = texts_to_train_on(args, subjects[0], seed)
    labelled, ks = labelled_texts(args, subjects[0]), [k for k in PROBED_KS if k <= args.features]
    models = {one.id: one.model for one in subjects}
    source = features.Streamed(models, texts, args.site, args.writes, batch_tokens=batch, seed=seed)
    named = "+".join(Path(one.id).name if Path(one.id).exists() else one.id.replace("/", "_") for one in subjects)
    place = f"{source.reads}" if source.reads == source.writes else f"{source.reads}-{source.writes}"
    folder = args.out or Path("dictionaries") / named / place
    dictionary = features.train(source, settings, folder, progress=bar(args))
    features.save(dictionary, folder)
    found = features.quality(dictionary, models, held_out, progress=bar(args))
    table = pd.concat([one.table().assign(checkpoint=name) for name, one in found.items()]).set_index("checkpoint")
    if labelled is not None:
        probed = features.sparse_probing(dictionary, models_of(dictionary, subjects), labelled, ks=ks, seed=seed)
        table = table.assign(**columns_of_probing(probed.accuracy))
    note = (
        "On held-out texts. explained: share of the variance; l0: active features per token; dead: features that are "
        "active at no token; loss: of the model, in nats; replaced, ablated: the same with the reconstruction, or the "
        "mean, in place of the activations; recovered: (ablated − replaced) / (ablated − loss)."
    )
    if labelled is not None:
        note += (
            f" probe: balanced accuracy, 0.5 by chance, with which the labels of {args.probed} are read at the last "
            f"token from the best {' or '.join(map(str, ks))} features, or from the whole state; see features probe."
        )
    origin = provenance(args, {"checkpoints": ", ".join(one.id for one in subjects), "folder": str(folder)})
    return Report(f"{dictionary!r} in {folder}", [Section("Measures", table.reset_index(), note=note)], origin)


def labelled_texts(args: argparse.Namespace, subject: LoadedCheckpoint) -> Texts | None:
    """The texts of --probed; None for "none". They are read before a training, so that a wrong set costs none.

    Errors: those of `set_or_file`, and WorkbenchError for labels that cannot be probed.
    """
    if args.probed == "none":
        return None
    texts = set_or_file(args.probed, subject.tokenizer)
    checked_labels(labels_of(texts), None, folds=5)
    return texts


def columns_of_probing(accuracy: Curves) -> dict[str, float]:
    """Columns of the measures: the accuracy of the best k features for each k, and of the whole state."""
    lines = dict(zip(accuracy.lines, accuracy.values.tolist(), strict=True))
    found = {f"probe {k:g}": value for k, value in zip(accuracy.x, lines["features"], strict=True)}
    return found | {"probe state": lines["whole state"][0]}


def texts_to_train_on(args: argparse.Namespace, subject: LoadedCheckpoint, seed: int) -> tuple[Texts, Texts]:
    """(texts to train on, held-out texts), from --texts or from the training text of the series."""
    generator = torch.Generator().manual_seed(seed)
    if args.texts is not None:
        texts = texts_of(args, subject)
        if len(texts) < HELD_OUT:
            raise WorkbenchError(
                f"{args.texts} has {len(texts)} texts; at least {HELD_OUT} are needed, one is held out"
            )
        order = torch.randperm(len(texts), generator=generator)
        kept = len(texts) // HELD_OUT
        return texts[order[kept:]], texts[order[:kept]]
    name = split_id(subject.id)[0]
    try:
        text = prepared_text(name)
    except WorkbenchError as error:
        raise WorkbenchError(f"{error}; or give --texts") from error
    found = []
    for tokens in (text.tokens, text.held_out):
        rows = [torch.from_numpy(one[: len(one) // ROW * ROW].astype("int64")).view(-1, ROW) for one in tokens.values()]
        whole = torch.cat(rows)
        found.append(whole[torch.randperm(len(whole), generator=generator)])
    return Texts(found[0][: math.ceil(args.tokens / ROW)]), Texts(found[1][:400])


def scan(args: argparse.Namespace) -> Report:
    """A row for each feature: how often and how strongly it is active."""
    dictionary, subjects = of_dictionary(args, args.names[0])
    found = scanned(args, dictionary, subjects)
    table = pd.DataFrame(
        {
            "feature": range(len(found)),
            "count": found.counts.numpy(),
            "density": found.density.numpy(),
            "peak": found.peak.numpy(),
        }
    ).sort_values("count", ascending=False, kind="stable")
    title = f"{int((found.counts > 0).sum()):,} of {len(found):,} features are active"
    note = "count, density: number and share of the tokens at which a feature is active; peak: its largest activation."
    origin = provenance(args, {"dictionary": args.names[0], "texts": given_texts(args)})
    return Report(f"Scan of {found!r}", [Section(title, table, note=note, shown=table.head(SHOWN))], origin)


def card(args: argparse.Namespace) -> Report:
    """The card of a feature as tables: numbers, examples, logits, neighbours, and steered texts."""
    if len(args.names) != 2 or not args.names[1].isascii() or not args.names[1].isdecimal():
        raise WorkbenchError("card takes a dictionary and the number of a feature, as in: card DICTIONARY 417")
    dictionary, subjects = of_dictionary(args, args.names[0])
    feature = dictionary.check_feature(int(args.names[1][:30]))
    tokenizer = subjects[-1].tokenizer
    prompt = None if args.prompt is None else subjects[-1].fitting(ids_of(tokenizer, args.prompt)[None])
    found = features.card(
        models_of(dictionary, subjects),
        dictionary,
        feature,
        scanned(args, dictionary, subjects),
        others={name: features.load(name) for name in args.others},
        prompt=prompt,
        strengths=args.strengths,
        tokenizer=tokenizer,
    )
    names = ("count", "density", "peak", "mean", "loss_change", "loss_change_next")
    numbers = pd.DataFrame([{name: getattr(found, name) for name in names}])
    effects = [(*up, *down) for up, down in zip(found.raised, found.lowered, strict=True)]
    sections = [
        Section(
            "Numbers",
            numbers,
            note="loss_change: how much the loss rises without the feature, in nats, mean over the tokens of the texts "
            "of the examples; loss_change_next: the same over the tokens that follow one where the feature is active.",
        ),
        Section(
            "Examples",
            found.table(),
            note="top: the strongest, at most one of each text; quantile: evenly spaced by rank.",
        ),
        Section("Logits", pd.DataFrame(effects, columns=["raised", "by", "lowered", "by (lowered)"])),
    ]
    if found.neighbours:
        sections.append(Section("Neighbours", pd.DataFrame([vars(one) for one in found.neighbours])))
    if found.steered:
        sections.append(Section("Steered", pd.DataFrame([vars(one) for one in found.steered])))
    origin = provenance(args, {"dictionary": args.names[0], "feature": feature, "texts": given_texts(args)})
    return Report(f"Feature {feature} of {dictionary!r}", sections, origin)


def probe(args: argparse.Namespace) -> Report:
    """How well labels are read from the best few features: a row for each number of features; and these features."""
    dictionary, subjects = of_dictionary(args, args.names[0])
    args.texts = args.texts or PROBED
    texts, models = texts_of(args, subjects[0]), models_of(dictionary, subjects)
    how: dict[str, Any] = {"ks": args.best, "position": args.position, "seed": checked_seed(args)}
    found = features.sparse_probing(dictionary, models, texts, **how, progress=bar(args))
    curves = found.accuracy
    shown = pd.DataFrame(curves.values.T, columns=curves.lines)
    shown.insert(0, "k", curves.x)
    if curves.errors is not None:
        shown.insert(2, "error", curves.errors[0])
    note = (
        "Mean of the shares of held-out texts with and without a label that are read correctly, 0.5 by chance: from "
        "the k best features, the k best coordinates and principal directions of the state, and all of it. error: "
        "standard error of the features' accuracy over texts."
    )
    sections = [
        Section(curves.title, curves.table(), [curves], note, shown=shown, results={"accuracy": curves}),
        Section(
            "Best features",
            found.best,
            note="F: the variance between texts with and without the label, by that within these groups; with, "
            "without: the mean activation in each.",
        ),
    ]
    origin = provenance(args, {"dictionary": args.names[0], "texts": args.texts, "position": args.position})
    return Report(f"Sparse probing of {dictionary!r}", sections, origin)


def born(args: argparse.Namespace) -> Report:
    """Tables of births by feature, by checkpoint and by family, and with --without the need of a group of features."""
    name = crosscoder_of(args)
    dictionary = features.load(name)
    found, sections = features.births(dictionary), list[Section]()
    if not args.weights_only:
        subjects = of_sources(args, name, dictionary)
        models, texts = models_of(dictionary, subjects), born_on(args, subjects[0])
        state_price(features.births_on_texts, dictionary, models, texts, need=args.need)
        found = features.births_on_texts(dictionary, models, texts, need=args.need, progress=bar(args))
        together = "Features born at the same checkpoint whose activations correlate by 0.3 or more."
        sections.append(Section("Families", found.families(), note=together))
        if args.without:
            how = {"last": args.last, "seed": checked_seed(args), "progress": bar(args)}
            curves = features.group_need(dictionary, models, args.without, texts, **how)
            table = pd.DataFrame(curves.values.T, columns=curves.lines).assign(step=found.steps)
            shown = table[["step", *curves.lines]]
            note = (
                "Mean loss in nats, and its rise without the group, and without random groups that are as often active."
            )
            sections.append(Section(curves.title, shown, [curves], note, results={"without": curves}))
    elif args.need or args.without:
        raise WorkbenchError("--need and --without run the models, which --weights-only forbids; leave one of them out")
    origin = provenance(args, {"dictionary": name, "texts": "none" if args.weights_only else born_texts(args)})
    return Report(f"Births in {found!r}", [*births_sections(args, found), *sections], origin)


def births_sections(args: argparse.Namespace, found: features.FeatureBirths) -> list[Section]:
    """A row for each feature, sorted, and a row for each checkpoint. Errors: WorkbenchError for an unknown column."""
    table = found.table()
    if args.sort not in table:
        raise WorkbenchError(f"no column {args.sort!r} to sort by; there are {', '.join(map(str, table))}")
    table = table.sort_values(args.sort, kind="stable", ignore_index=True)
    steps = found.by_step()
    if isinstance(found, features.MeasuredBirths):
        steps = steps.assign(**{"born scaled": found.after_scaling().by_step()["born"]})
    few = [column for column in table if column in (*SHOWN_OF_BIRTHS, args.sort)]
    return [
        Section(
            f"Features, by {args.sort}",
            table,
            note="A checkpoint holds a feature if its norm there is at least half of its largest one. born: the "
            "first step of the stretch of checkpoints that hold it; died: the first step after it; largest: the step "
            "of the largest norm; ends: the number of final checkpoints, which differ in data order only, that hold "
            "it; apart: how far its norms in them differ, 0 to 1; born scaled: birth by latent scaling, which also "
            "finds a feature whose norm is still small (only for features with at least 30 active tokens).",
            shown=table[few].head(SHOWN),
            results={"births": found},
        ),
        Section(
            "Checkpoints",
            steps,
            note=f"For 99 % of features, norms differ by less than {found.floor:.3f} between the ends (final "
            "checkpoints). born in all ends: features born here that the last checkpoint and all ends hold.",
        ),
    ]


def crosscoder_of(args: argparse.Namespace) -> str:
    """The name of a crosscoder: the given one, or the embedded one of a series.

    Errors: WorkbenchError if several names are given.
    """
    if len(args.names) > 1:
        raise WorkbenchError(f"born takes one crosscoder or series, but {len(args.names)} are given")
    name = args.names[0] if args.names else "tiny-olmo"
    return next((one for one in features.embedded() if one.startswith(f"{name}@") and "crosscoder" in one), name)


def born_texts(args: argparse.Namespace) -> str:
    """The names of the texts that births are measured on."""
    return args.texts or ", ".join(BORN_ON)


def born_on(args: argparse.Namespace, subject: LoadedCheckpoint) -> list[torch.Tensor]:
    """The texts that births are measured on."""
    if args.texts is not None:
        return list(texts_of(args, subject))
    return [ids for name in BORN_ON for ids in Texts.read(name, subject.tokenizer)]


ACTIONS = {"train": train, "scan": scan, "card": card, "probe": probe, "born": born}


def of_dictionary(args: argparse.Namespace, name: str) -> tuple[features.Dictionary, list[LoadedCheckpoint]]:
    """A dictionary, and the checkpoints whose activations it reads."""
    if args.action in ("scan", "probe") and len(args.names) != 1:
        raise WorkbenchError(f"{args.action} takes one dictionary, but {len(args.names)} are given")
    dictionary = features.load(name)
    return dictionary, of_sources(args, name, dictionary)


def of_sources(args: argparse.Namespace, name: str, dictionary: features.Dictionary) -> list[LoadedCheckpoint]:
    """The checkpoints whose activations a dictionary reads. Errors: WorkbenchError if it does not name them."""
    ids = dictionary.sources or (dictionary.model,)
    if ids == ("",):
        raise WorkbenchError(f"{name} does not name the model that it was trained on")
    return [opened_checkpoint(args, one) for one in ids]


def models_of(dictionary: features.Dictionary, subjects: list[LoadedCheckpoint]) -> dict[str, OlmoForCausalLM]:
    """The models, by the names of the dictionary's sources; "" if it has only one model."""
    return {name: one.model for name, one in zip(dictionary.sources or ("",), subjects, strict=True)}


def given_texts(args: argparse.Namespace) -> str:
    """The name of the set to scan: --texts, or the built-in English set."""
    return args.texts or "tiny-olmo/english"


def scanned(
    args: argparse.Namespace, dictionary: features.Dictionary, subjects: list[LoadedCheckpoint]
) -> features.FeatureScan:
    """The scan of the set `given_texts`. Sets `args.texts` to its name."""
    args.texts = given_texts(args)
    texts = texts_of(args, subjects[0])
    return features.of(models_of(dictionary, subjects), texts, dictionary, args.out, progress=bar(args))
