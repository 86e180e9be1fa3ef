"""Dictionaries of features: sparse autoencoders, transcoders and crosscoders.

from workbench import features
sae = features.load("tiny-olmo@step6000/blocks.2.resid_post")
firing = sae.encode(run["blocks.2.resid_post"])              # the active features
model.run(ids, edits=[features.steer(sae, 417, 8.0)])
"""

from workbench.features.dictionary import Dictionary
from workbench.features.editing import replace, set_to, steer, switch_off
from workbench.features.files import embedded, load, save
from workbench.features.firing import Firing, Gate

__all__ = ["Dictionary", "Firing", "Gate", "embedded", "load", "replace", "save", "set_to", "steer", "switch_off"]
