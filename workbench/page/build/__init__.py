"""What every tab is built with: the page around it, its slot on the page, and panels for its results."""
