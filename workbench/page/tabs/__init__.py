"""The tabs of the page, in order. A new tab is a module in this folder and an entry in `TABS`."""

from workbench.page.tabs import (
    attention,
    attribution,
    circuits,
    compare,
    features,
    generate,
    hidden_states,
    texts,
    training,
)

TABS = (generate, attention, hidden_states, attribution, circuits, compare, training, texts, features)
