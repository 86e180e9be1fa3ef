"""The training text of a series: what stands in it, and which rows of it were read at which step.

    from workbench import corpus

    corpus.rows("tiny-olmo", 3950)      # row pos: the token ids that step 3,950 was trained on

The text is fetched and prepared once, by `python -m workbench corpus build tiny-olmo`.
"""

from workbench.corpus.replay import Replay, replay_of, rows
from workbench.corpus.training_text import TrainingText, prepared_text

__all__ = ["Replay", "TrainingText", "prepared_text", "replay_of", "rows"]
