"""The embedded series: a small OLMo trained by this project, and the code that trained it."""
