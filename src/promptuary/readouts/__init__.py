"""From the backbone's output to the task: a loss while training, a prediction afterwards. One read-out a file."""

from promptuary.readouts.by_task import ByTask
from promptuary.readouts.classifier import Classifier
from promptuary.readouts.language_model import LanguageModel, Likelihood
from promptuary.readouts.readout import ClassReadout, Prediction, Readout
from promptuary.readouts.span import Span, Spans
from promptuary.readouts.tagger import Tagger, Tagging
from promptuary.readouts.verbalizers import WordsAsContinuation, WordsAtBlanks, log_prior

__all__ = [
    "ByTask",
    "ClassReadout",
    "Classifier",
    "LanguageModel",
    "Likelihood",
    "Prediction",
    "Readout",
    "Span",
    "Spans",
    "Tagger",
    "Tagging",
    "WordsAsContinuation",
    "WordsAtBlanks",
    "log_prior",
]
