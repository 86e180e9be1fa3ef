"""What can be asked of a model: one pure function a file, `workbench.analyses.<name>.<name>`.

Each is `name(model, tokens, …)` (or two models, or a series), runs anywhere a model runs, keeps nothing, and returns
one of the shapes of `workbench.results`. What all of them share:

- `tokens` is a LongTensor, batch pos; a single text may be given as pos. Analyses that draw one text refuse more.
- `tokenizer=None` gives the tokens their labels, as `workbench.text` reads them; without it, labels are the ids.
- `progress=None` is called as `progress(fraction, text)`; to cancel, it raises (`workbench.progress`).
- Randomness comes from `seed=` and nothing else.
- Logarithms are natural, so losses, entropies and divergences are in nats.
- Whatever the user can mend is a `WorkbenchError` that names the value and what would do.
"""
