"""What several analyses share, each file named after what it is."""
