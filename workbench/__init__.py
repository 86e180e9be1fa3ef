"""The OLMo workbench: checkpoints, texts, analyses of what happens inside a model, and plots of the results.

The public names stand in `__init__.pyi` and are imported when they are first used, so that `import workbench` is quick:
`from workbench import Texts, load, head_atlas, plot` gives the functions.
"""

import lazy_loader

from workbench import deferred, moved

moved.install()
deferred.defer(plot="workbench.plots:plot")
__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
