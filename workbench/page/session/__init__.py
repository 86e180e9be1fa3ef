"""Everything that the page computes. These modules use no Gradio components."""
