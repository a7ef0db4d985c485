"""The kinds of tasks: one file each, and the table that finds them by name."""

from collections.abc import Mapping
from types import MappingProxyType

from promptuary.kinds.answering import Answering
from promptuary.kinds.classification import Classification
from promptuary.kinds.kind import Kind
from promptuary.kinds.tagging import Tagging
from promptuary.kinds.text import Text

KINDS: Mapping[str, type[Kind]] = MappingProxyType({k.name: k for k in (Classification, Text, Tagging, Answering)})

__all__ = ["KINDS", "Answering", "Classification", "Kind", "Tagging", "Text"]
