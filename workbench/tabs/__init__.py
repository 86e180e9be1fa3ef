"""The tabs of the page, in order. A new one is a file here and a line in `TABS`."""

from workbench.tabs import attention, compare, generate

TABS = (generate, attention, compare)
