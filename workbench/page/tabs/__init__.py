"""The tabs of the page, in order. A new one is a file here and a line in `TABS`."""

from workbench.page.tabs import attention, attribution, compare, generate, hidden_states, training

TABS = (generate, attention, hidden_states, attribution, compare, training)
