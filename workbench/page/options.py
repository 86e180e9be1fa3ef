"""The options of `python app.py`. It imports little, so that help and usage errors appear at once."""

import argparse
import math
import socket
from collections.abc import Callable

from workbench.choices import BITS, DTYPES, LOOPBACK
from workbench.streams import error_line

EXAMPLES = """A series is tiny-olmo, a folder with one sub-folder for each step, or a hub repository:
  python app.py --series allenai/OLMo-2-1124-7B --dtype bfloat16 --quantize nf4 --device cuda"""

MOST_THREADS = 1024
ASKS_ABOVE = 5.0  # seconds


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_checkpoints(parser.add_argument)
    _add_what_it_shows(parser.add_argument)
    _add_server(parser.add_argument)
    return parser.parse_args()


def _add_checkpoints(option: Callable[..., object]) -> None:
    """Which checkpoints are opened, and how they are loaded."""
    option("--series", nargs="+", default=["tiny-olmo"], metavar="NAME", help="series to open (default: tiny-olmo)")
    option("--checkpoint", metavar="ID", help="name@revision to open first (default: the last of the series)")
    option(
        "--dtype", choices=DTYPES, help="dtype of the weights (default: float32 on a CPU, else auto, the files' dtype)"
    )
    option("--device", help="cpu, cuda, cuda:1, … (default: cpu)")
    option(
        "--quantize",
        choices=list(BITS),
        help="quantise linear layers to 4 bits (nf4, 4bit) or 8 bits with bitsandbytes",
    )
    option(
        "--memory", type=float, metavar="GB", help="memory for loaded models (default: three quarters of free memory)"
    )


def _add_what_it_shows(option: Callable[..., object]) -> None:
    """What the page shows besides the checkpoints, and what it computes without being asked."""
    option(
        "--ask-above",
        type=float,
        default=ASKS_ABOVE,
        metavar="SECONDS",
        help="views that take longer wait for a click (default: 5)",
    )
    option("--texts", metavar="FILE", help="set of texts to open with: csv, jsonl, parquet, txt, or a built-in set")
    option("--text-column", default="text", metavar="COLUMN", help="column of the texts of --texts (default: text)")
    option("--label", metavar="COLUMN", help="column of the labels of --texts (default: label, if there is one)")
    option(
        "--dictionary",
        nargs="+",
        default=[],
        metavar="NAME",
        help="dictionaries of features to show: folders, or repository/folder of the hub",
    )
    option(
        "--lens", nargs="+", default=[], metavar="FOLDER", help="tuned lenses, in the format of the package tuned-lens"
    )
    option("--result", default="", metavar="FILE", help="saved result (.npz) to show in a tab of its own")


def _add_server(option: Callable[..., object]) -> None:
    """The threads of the process, and the address and login of its server."""
    option("--threads", type=int, help="number of torch threads (default: chosen by torch)")
    option(
        "--host", default="127.0.0.1", help="address to serve at (default: this machine only; any other needs --auth)"
    )
    option("--port", type=int, default=7860, help="port to serve at (default: 7860)")
    option("--auth", metavar="NAME:PASSWORD", help="login that is required for every request")


def problem_of(args: argparse.Namespace) -> str | None:
    """A sentence on the first invalid option, checked before torch is imported; None if no problem is found."""
    if (args.auth or args.host not in LOOPBACK) and not all((args.auth or "").partition(":")):
        return f"--host {args.host} with --auth {args.auth}: serving other machines needs --auth NAME:PASSWORD"
    if args.memory is not None and not 0 < args.memory < math.inf:
        return f"--memory {args.memory:g}: it should be a number of GB above 0"
    if not args.ask_above >= 0:
        return f"--ask-above {args.ask_above:g}: it should be a number of seconds from 0 up"
    if args.threads is not None and not 0 < args.threads <= MOST_THREADS:
        return f"--threads {args.threads}: it should be a number from 1 to {MOST_THREADS:,}"
    try:
        with socket.socket(socket.AF_INET6 if ":" in args.host else socket.AF_INET) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind((args.host, args.port))
    except (OSError, OverflowError, UnicodeError) as error:
        return f"--host {args.host} --port {args.port}: the page cannot be served there: {error_line(error)}"
    return None
