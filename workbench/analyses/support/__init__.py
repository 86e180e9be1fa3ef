"""Functions that several analyses share, one topic in each file."""
