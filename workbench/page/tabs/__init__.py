"""The tabs of the page, in order. A new tab is a module in this folder and an entry in `TABS`."""

from workbench.page.tabs import attention, attribution, compare, features, generate, hidden_states, texts, training

TABS = (generate, attention, hidden_states, attribution, compare, training, texts, features)
