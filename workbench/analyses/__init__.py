"""Analyses of models: one pure function in each file, `workbench.analyses.<name>.<name>`.

An analysis is called as `name(model, tokens, …)`; some take two models or a series of checkpoints. It runs wherever the
model runs, keeps no state, and returns one of the result types of `workbench.results`. Conventions of all analyses:

- `tokens` are `Texts`, a LongTensor (batch pos, or pos for one text), a sequence of LongTensors of any lengths, or the
  output of a tokenizer. Analyses of one text refuse several. Means over tokens give every token the same weight.
- Texts run in batches that fit into memory (`workbench.analyses.support.memory`). A text that cannot fit is refused.
- `tokenizer` makes the token labels (see `workbench.tokens`); with `tokenizer=None` the labels are token ids.
- `progress` is called as `progress(fraction, text)`; None means no reports. To cancel, the callback raises
  (`workbench.progress`).
- Random numbers depend on `seed` alone.
- Logarithms are natural: losses, entropies and divergences are in nats.
- An error that the user can correct is a `WorkbenchError`. It names the wrong value and the valid choices.
"""
