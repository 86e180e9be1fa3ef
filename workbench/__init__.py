"""The OLMo workbench: checkpoints, analyses of what happens inside them, and plots of the results."""
