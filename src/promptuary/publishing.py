"""Prompts on the Hugging Face hub: `publish` puts one there with a card, `fetch` takes one from there.

What is published is what using the prompt and training it on need: the manifest, the tensors and the card. Paths of the
machine it was tuned on do not go with it. A fetched prompt is a folder like any other, looked at before it is there.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from promptuary import checkpoint, hub, places
from promptuary.card import card
from promptuary.checkpoint import Manifest
from promptuary.data.source import public
from promptuary.errors import CheckpointError, SettingError
from promptuary.files import write
from promptuary.manifests import MANIFEST
from promptuary.methods.method import STARTS

CARD = "README.md"
STORED = ("file", "prompt", "peft")  # starts of a prompt that lie in a file or a folder
FILES = (checkpoint.PROMPT, checkpoint.TRAINING)  # the files of tensors that a manifest may name


def publish(
    folder: Path | str,
    repository: str,
    *,
    base_model: str | None = None,
    license: str | None = None,
    private: bool = False,
) -> str:
    """Put a tuned prompt on the hub, in one commit; the repository is made where there is none.

    Arguments:
        repository: `USER/NAME`. private: whether only its owner sees it, where it is made.
        base_model: the name under which others find the frozen model, where the prompt was tuned on a local folder.
        license: its name on the hub, `apache-2.0`; the card says none by default.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: when the folder holds no whole prompt.
        SettingError: for a model that only this machine has, a name that the hub refuses, or without leave to write.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    place = Path(folder)
    manifest = _portable(checkpoint.read_manifest(place), base_model)
    files = {name: _whole((place / name).read_bytes(), name, manifest, place) for name in manifest.hashes}
    files[MANIFEST] = json.dumps(vars(manifest), indent=2, ensure_ascii=False, default=dict).encode()
    files[CARD] = card(manifest, repository, license=license).encode()
    with _told(repository):
        api = HfApi(library_name="promptuary")
        api.create_repo(repository, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, data) for name, data in files.items()]
        return str(
            api.create_commit(repository, operations, commit_message=f"A prompt by {manifest.method}").commit_url
        )


def fetch(repository: str, out: Path | str, *, revision: str | None = None, overwrite: bool = False) -> Manifest:
    """Take a prompt from the hub into a folder; what the manifest says is held against the tensors first.

    Arguments:
        repository: `USER/NAME`. revision: a branch, a tag or a commit; by default the newest.
        overwrite: take the place of a prompt that the folder holds.

    Raises:
        CheckpointError: when the repository holds no whole prompt, or the folder holds another one.
        SettingError: when the hub has no such repository or cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    target = Path(out)
    places.vacant(target, overwrite)
    with _told(repository):
        found = Path(hf_hub_download(repository, MANIFEST, revision=revision, library_name="promptuary"))
        manifest = checkpoint.read_manifest(found.parent)
        commit, files = found.parent.name, {}
        for name in manifest.hashes:
            if name not in FILES:
                raise CheckpointError(f"{repository} names a file {name!r}. Expected {' and '.join(FILES)} alone.")
            data = Path(hf_hub_download(repository, name, revision=commit, library_name="promptuary")).read_bytes()
            files[name] = _whole(data, name, manifest, repository)
    places.clear(target)
    for name, data in files.items():
        write(target / name, data)
    write(target / MANIFEST, found.read_bytes())
    return manifest


def _whole(data: bytes, name: str, manifest: Manifest, where: Path | str) -> bytes:
    """The bytes of a file of tensors, if they are those that the manifest states."""
    if hashlib.sha256(data).hexdigest() != manifest.hashes[name]:
        raise CheckpointError(f"{where}: {name} does not have the hash that its manifest states: it is not whole.")
    return data


def _portable(manifest: Manifest, base_model: str | None) -> Manifest:
    """The manifest without the paths of this machine.

    Raises:
        SettingError: where the frozen model is a folder of this machine and `base_model` does not name it.
    """
    if base_model is None and Path(manifest.backbone).exists():
        raise SettingError(
            f"The prompt was tuned on {manifest.backbone}, a folder of this machine. Say under which name others find "
            "that model: --base-model NAME."
        )
    run = dict(manifest.run)
    told = {k: public(v) if isinstance(v, str) else v for k, v in run.get("data", {}).items()}
    kind, _, place = str(run.get("init", "")).partition(":")
    if kind in STORED:
        run["init"] = f"{kind}:{Path(place).name}"
    settings = {k: _names(v) if k in STARTS and v is not None else v for k, v in manifest.settings.items()}
    return replace(manifest, backbone=base_model or manifest.backbone, settings=settings, run={**run, "data": told})


def _names(folders: str | Sequence[str]) -> str | list[str]:
    return Path(folders).name if isinstance(folders, str) else [Path(folder).name for folder in folders]


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """Errors of the hub as ours.

    Raises:
        SettingError: naming the repository and what the hub says.
    """
    from huggingface_hub import errors as theirs

    try:
        hub.reach()
        yield
    except theirs.LocalTokenNotFoundError as error:
        raise SettingError(f"{repository}: the hub wants to know who you are. Write `hf auth login` first.") from error
    except (theirs.HTTPError, theirs.HFValidationError, OSError) as error:  # type: ignore[attr-defined]
        said = " ".join(str(error).split())
        raise SettingError(f"{repository}: the hub refuses, or cannot be reached: {said}") from error
