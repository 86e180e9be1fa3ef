"""Sentences of errors in the words of the command line: `--cut 2048` where the function's argument is `cut=2048`.

The functions write their sentences for Python, where most people meet them. This is the one place that knows both.
"""

import re

OPTIONS = ("by", "cut", "dtype", "method", "quantize")  # arguments of functions that are options of the same name
OPTION = re.compile(rf"\b({'|'.join(OPTIONS)})=(?:'([^']*)'|([\w.-]+))")
LABELS = "name the column of the labels with --label"
PHRASES = {
    "give labels to Texts.of, or label= to Texts.read": LABELS,
    "give labels=, one for each text, or Texts with labels": LABELS,
    "read it in pieces with Texts.stream, or cut long texts with cut=": "split it, or cut long texts with --cut",
    "give more texts, or reference=": "give more texts",
    "; load(..., check_finite=False) loads it anyway": "",
}


def in_options(sentence: str) -> str:
    """The sentence of an error, with options where it names arguments of Python."""
    for phrase, spoken in PHRASES.items():
        sentence = sentence.replace(phrase, spoken)
    return OPTION.sub(lambda found: f"--{found[1]} {found[2] or found[3]}", sentence)
