"""What promptuary's methods are held against, each in a file of its own. To add one: write the file, name it here."""

from promptuary.bench.baselines.adapters import Adapters
from promptuary.bench.baselines.bag_of_words import BagOfWords
from promptuary.bench.baselines.bitfit import BitFit
from promptuary.bench.baselines.fine_tuning import FineTuning
from promptuary.bench.baselines.ia3 import IA3
from promptuary.bench.baselines.in_context import InContext
from promptuary.bench.baselines.lora import LoRA
from promptuary.bench.baselines.majority import Majority
from promptuary.bench.baselines.zero_shot import ZeroShot
from promptuary.bench.contender import Contender

BASELINES: tuple[Contender, ...] = (
    Majority(),
    BagOfWords(),
    FineTuning(),
    BitFit(),
    LoRA(),
    IA3(),
    Adapters(),
    ZeroShot(),
    InContext(),
)

__all__ = ["BASELINES"]
