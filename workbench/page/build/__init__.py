"""The parts that all tabs share: the page around a tab, the tab's slot on the page, and panels for results."""
