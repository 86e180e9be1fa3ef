"""What can be asked of a model: one pure function a file, `workbench.analyses.<name>.<name>`.

Each is `name(model, tokens, …)` (or two models, or a series), runs anywhere a model runs, keeps nothing, and returns
one of the shapes of `workbench.results`. What all of them share:

- `tokens` are `Texts`, a LongTensor (batch pos, or pos for one text), a sequence of LongTensors of any lengths, or what
  a tokenizer returns. Analyses that draw one text refuse more. Means over tokens weigh every token the same.
- Texts run in batches that fit into memory (`workbench.analyses.support.memory`); one that cannot fit is refused.
- `tokenizer=None` gives the tokens their labels, as `workbench.tokens` reads them; without it, labels are the ids.
- `progress=None` is called as `progress(fraction, text)`; to cancel, it raises (`workbench.progress`).
- Randomness comes from `seed=` and nothing else.
- Logarithms are natural, so losses, entropies and divergences are in nats.
- Whatever the user can mend is a `WorkbenchError` that names the value and what would do.
"""
