"""Where tuned prompts lie: a folder is one by its manifest. Nothing in here imports torch: a slip is told at once."""

from pathlib import Path

from promptuary.errors import SHOWN, CheckpointError

MANIFEST = "manifest.json"
GENERATOR = "generator.json"  # of what `promptuary pretrain --out` wrote


def manifest_in(folder: Path) -> Path:
    """The manifest of the tuned prompt in a folder.

    Raises:
        CheckpointError: where there is none, with the prompts below the folder, if it holds some.
    """
    path = folder / MANIFEST
    if path.is_file():
        return path
    below = sorted(_below(folder))
    if below:
        named = ", ".join(below[:SHOWN]) + (f" and {len(below) - SHOWN} more" if len(below) > SHOWN else "")
        raise CheckpointError(f"{folder} is no prompt, but holds some: {named}. Name one, as {folder / below[0]}.")
    if holds_generator(folder):
        raise CheckpointError(
            f"{folder} has no manifest.json, but holds a generator, which answers nothing by itself. "
            f"Tune a prompt that starts from it: --set pretrained={folder}."
        )
    what = "has no manifest.json" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    raise CheckpointError(f"{folder} {what}: expected the folder that `promptuary tune --out` wrote.")


def holds_generator(folder: Path) -> bool:
    """Whether a folder holds a pre-trained generator."""
    return (folder / GENERATOR).is_file()


def prompts_in(folder: Path) -> dict[str, Path]:
    """The tuned prompts that lie in a folder, by the names of their own folders.

    Raises:
        CheckpointError: where there is none.
    """
    found = _below(folder)
    if not found:
        raise CheckpointError(
            f"{folder} holds no folders of tuned prompts. Expected {folder}/NAME, which `promptuary tune --out` wrote."
        )
    return found


def _below(folder: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))}
