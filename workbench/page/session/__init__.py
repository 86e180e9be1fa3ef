"""What the page computes for the people who look at it: Python without a component in it."""
