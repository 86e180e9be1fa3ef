"""Start the OLMo workbench's page: `python app.py`, then open http://127.0.0.1:7860."""

import argparse
import sys

from workbench.choices import BITS, DTYPES, LOOPBACK
from workbench.imports import to_stay, uncollected

EXAMPLES = """A series is tiny-olmo, a folder with one sub-folder a step, or a hub repository; nothing else is opened:
  python app.py --series allenai/OLMo-2-1124-7B --dtype bfloat16 --quantize nf4 --device cuda"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--series", nargs="+", default=["tiny-olmo"], metavar="NAME", help="tiny-olmo if not given")
    option("--checkpoint", metavar="ID", help="name@revision to open first; the last of the series if not given")
    option("--dtype", choices=DTYPES, help="float32 on a CPU, else auto: the files' own")
    option("--device", help="cpu if not given; cuda, cuda:1, …")
    option("--quantize", choices=list(BITS), help="linear layers in 4 bits (nf4, 4bit) or 8, by bitsandbytes")
    option("--memory", type=float, metavar="GB", help="for loaded models; three quarters of what is free if not given")
    option("--threads", type=int, help="of torch; its own choice if not given")
    option("--host", default="127.0.0.1", help="another than this machine's own (the default) needs --auth")
    option("--port", type=int, default=7860, help="7860 if not given")
    option("--auth", metavar="NAME:PASSWORD", help="a login that every request must carry")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    auth = tuple(args.auth.split(":", 1)) if args.auth else None
    if (auth or args.host not in LOOPBACK) and not (auth and len(auth) == 2 and all(auth)):
        sys.exit(f"--host {args.host} with --auth {args.auth}: others are let in with --auth NAME:PASSWORD only")
    with uncollected():
        import torch
        import uvicorn

        from workbench import checkpoints
        from workbench.checkpoints.loading import free_memory
        from workbench.errors import WorkbenchError
        from workbench.server import create_app
        from workbench.tabs.bench import Bench
    torch.set_num_threads(args.threads or torch.get_num_threads())
    try:
        found = [checkpoints.series(name) for name in args.series]
        budget = int(args.memory * 1e9) if args.memory else free_memory(args.device) * 3 // 4
        how = {"dtype": args.dtype, "quantize": args.quantize}
        bench = Bench([one for run in found for one in run], budget, default=args.checkpoint, device=args.device, **how)
        app = create_app(bench, host=args.host, auth=auth)
    except WorkbenchError as error:
        sys.exit(str(error))
    notes = [f"{series.name}: {series.note}" for series in found if series.note]
    print(*notes, f"OLMo workbench: http://{args.host}:{args.port}", sep="\n", flush=True)
    to_stay()
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
