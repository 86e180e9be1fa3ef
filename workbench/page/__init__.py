"""The web page, and the only part of the project that knows Gradio."""
