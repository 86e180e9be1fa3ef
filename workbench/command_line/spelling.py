"""Error messages for the command line: `--cut 2048` where Python has the argument `cut=2048`.

The messages of functions name the arguments of Python. The tables of this file translate them to options.
"""

import re

OPTIONS = ("by", "cut", "dtype", "method", "quantize")  # arguments of functions that have an option of the same name
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
    """An error message in which options stand in place of arguments of Python."""
    for phrase, spoken in PHRASES.items():
        sentence = sentence.replace(phrase, spoken)
    return OPTION.sub(lambda found: f"--{found[1]} {found[2] or found[3]}", sentence)
