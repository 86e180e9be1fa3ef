"""Start the page of the OLMo workbench: `python app.py`, then open http://127.0.0.1:7860."""

import sys

from workbench.imports import to_stay, uncollected
from workbench.interrupts import exit_on_interrupt
from workbench.page.options import arguments, problem_of
from workbench.page.stubs import without_stubs
from workbench.streams import error_line, prepare_streams, show


def main() -> None:
    args = arguments()
    if problem := problem_of(args):
        sys.exit(problem)
    auth = tuple(args.auth.split(":", 1)) if args.auth else None
    with uncollected(), without_stubs():
        import torch

        from workbench import checkpoints
        from workbench.checkpoints.loading import free_memory
        from workbench.errors import WorkbenchError
        from workbench.page.server import create_app, serve
        from workbench.page.session.bench import Bench
        from workbench.page.session.text_sets import named_set

        torch.set_num_threads(args.threads or torch.get_num_threads())
        try:
            found = [checkpoints.series(name) for name in args.series]
            free = free_memory(args.device)
            budget = int(args.memory * 1e9) if args.memory else free * 3 // 4
            how = {"dtype": args.dtype, "quantize": args.quantize}
            how |= {"default": args.checkpoint, "device": args.device, "asks_above": args.ask_above}
            how |= {"saved": args.result, "dictionaries": args.dictionary, "lenses": args.lens}
            texts = named_set(args.texts, args.text_column, args.label) if args.texts else None
            bench = Bench([one for run in found for one in run], budget, texts=texts, **how)
            app = create_app(bench, host=args.host, auth=auth)
            notes = [f"{series.name}: {series.note}\n" for series in found if series.note]
            show("".join(notes) + f"OLMo workbench: http://{args.host}:{args.port}\n")
        except (WorkbenchError, OSError) as error:
            sys.exit(error_line(error))
        to_stay()
    serve(app, args.host, args.port)


if __name__ == "__main__":
    exit_on_interrupt()
    prepare_streams()
    main()
