"""The embedded series: a small OLMo trained by this project, with the recipe that trained it."""
