"""Prompts that other libraries write and read: `export`, `import`."""

from pathlib import Path
from typing import Annotated

import typer

from promptuary.cli.terminal import Backbone, Device, Folder, app, err, opened, told


@app.command()
@told
def export(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="The folder of the adapter.")],
    to: Annotated[str, typer.Option(help="The format: peft.")] = "peft",
    backbone: Backbone = None,
    device: Device = None,
) -> None:
    """Write a prompt as an adapter that PEFT loads."""
    from promptuary.errors import SettingError

    if to != "peft":
        raise SettingError(f"--to {to}: expected peft. For a vLLM nothing is written: see `promptuary gateway`.")
    from promptuary.interop.peft import write_adapter

    written = write_adapter(opened(folder, backbone, device), out)
    err.print(f"{len(written.table)} soft tokens, {written.kind} for {written.task} -> {out}")
    err.print(
        "PEFT has no place for the wording and the read-out of a task: whoever loads it writes rows the same way."
    )


@app.command("import")
@told
def import_(
    adapter: Annotated[Path, typer.Argument(help="A folder with adapter_config.json and adapter_model.safetensors.")],
    folder: Annotated[Path, typer.Option("--out", help="Where the prompt goes.")],
    backbone: Annotated[
        str | None, typer.Option(help="The model it was tuned on (default: the one its configuration names).")
    ] = None,
    text: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the text that is to be written.")] = "target",
    template: Annotated[str | None, typer.Option(help="How rows are written (default: the text alone).")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of the longest text that is written.")] = 32,
    device: Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")] = False,
) -> None:
    """Keep an adapter of PEFT that writes texts as a tuned prompt.

    Prompt tuning, P-tuning and prefix tuning for CAUSAL_LM or SEQ_2_SEQ_LM. Adapters for other tasks are a start: tune
    --init peft:ADAPTER.
    """
    from promptuary.backbones.load import load
    from promptuary.errors import SettingError
    from promptuary.interop.peft import import_adapter, read_adapter

    found = read_adapter(adapter)
    name = backbone or found.backbone
    if not name:
        raise SettingError(f"{adapter} does not say which model it was tuned on. Name it with --backbone.")
    loaded = load(name, device=device or "auto")
    import_adapter(
        found, loaded, folder, text=text, label=label, template=template, max_new_tokens=max_new_tokens,
        overwrite=overwrite,
    )  # fmt: skip
    err.print(f"{len(found.table)} soft tokens, {found.kind} -> {folder}")
