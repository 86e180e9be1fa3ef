"""The training text of a series: its contents, and the training step at which each row was read.

from workbench import corpus

text = corpus.open("tiny-olmo")                 # built once: python -m workbench corpus build tiny-olmo
ids = tokenizer("next to the")["input_ids"]
text.count(ids), text.places(ids)               # of any n-gram, within documents
text.document(text.places(ids)[0])              # with its source and licence
text.continuations(ids).table()                 # what follows the longest suffix that occurs (∞-gram)
text.spans(ids)                                 # all maximal pieces that occur verbatim
text.rows_with(ids)                             # the training rows that hold it, and their steps
corpus.documents_with(ids, text, tokenizer=tokenizer)     # some of its places, with text around them and steps
corpus.rows("tiny-olmo", 3950)                  # row pos: the token ids that step 3,950 was trained on

corpus.verbatim(ids, text, tokenizer=tokenizer)           # length of the verbatim piece around each token
corpus.beside_model(model, ids, text)                     # the model beside its training text (∞-gram)
corpus.row_losses("tiny-olmo", rows)                      # the loss on rows along the run
corpus.influence("tiny-olmo", ids, rows, predicted=None)  # how much training on each row helped a prediction
corpus.explaining_rows(run, ids, text)                    # rows between two checkpoints that explain their difference
"""

from workbench.corpus.beside_model import beside_model
from workbench.corpus.building import build
from workbench.corpus.building import open_index as open
from workbench.corpus.chosen_rows import chosen_rows
from workbench.corpus.documents_with import documents_with
from workbench.corpus.explaining_rows import explaining_rows
from workbench.corpus.index import Continuations, CorpusIndex, Document, VerbatimSpan
from workbench.corpus.infini_gram import InfiniGramIndex, open_infini_gram
from workbench.corpus.influence import influence, random_rows
from workbench.corpus.replay import Replay, replay_of, rows
from workbench.corpus.row_losses import loss_on_rows, row_losses
from workbench.corpus.suffix_index import SuffixIndex
from workbench.corpus.training_text import TrainingText, prepared_text
from workbench.corpus.verbatim import verbatim

__all__ = [
    "Continuations",
    "CorpusIndex",
    "Document",
    "InfiniGramIndex",
    "Replay",
    "SuffixIndex",
    "TrainingText",
    "VerbatimSpan",
    "beside_model",
    "build",
    "chosen_rows",
    "documents_with",
    "explaining_rows",
    "influence",
    "loss_on_rows",
    "open",
    "open_infini_gram",
    "prepared_text",
    "random_rows",
    "replay_of",
    "row_losses",
    "rows",
    "verbatim",
]
