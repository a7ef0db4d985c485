"""Many tasks over HTTP: `serve`, `gateway`, `replicas`, and `key` for who may ask."""

from pathlib import Path
from typing import Annotated

import typer

from promptuary.cli.terminal import Device, app, err, told


@app.command()
@told
def serve(
    store: Annotated[Path, typer.Argument(help="A folder of such folders as `tune --out` writes: STORE/NAME.")],
    backbone: Annotated[str, typer.Option(help="The model they were tuned on: a short name, a folder, a hub name.")],
    device: Device = None,
    host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(help="API keys and what they may ask (see `promptuary key`); without them anyone may."),
    ] = None,
    admin: Annotated[
        Path | None,
        typer.Option("--admin-token-file", help="Its first line is the key that may add and remove tasks."),
    ] = None,
    imports: Annotated[
        Path | None, typer.Option(help="A folder whose folders the administrator may add by their names.")
    ] = None,
    anyone: Annotated[bool, typer.Option("--open", help="Listen beyond this machine without keys.")] = False,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a batch, padding counted.")] = 4096,
    wait_ms: Annotated[float, typer.Option(min=0, help="How long a row waits for others to share its batch.")] = 3.0,
    queue: Annotated[int, typer.Option(min=1, help="Rows that may wait; beyond it the answer is 429.")] = 1024,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="For an answer, a body, or a client that reads.")] = 60.0,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 1 << 20,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Answer for all prompts of a folder over HTTP.

    OpenAI's API under /v1, rows of any tasks at /predict, and a page to try them at /.
    """
    from promptuary.errors import SettingError

    try:
        from promptuary.serve import keys as guards
        from promptuary.serve import logs, process
    except ImportError as error:
        raise SettingError(f"{error.name} is not installed. Write: pip install 'promptuary[serve]'.") from error
    guard = guards.Guard(
        None if keys is None else guards.read_keys(keys), None if admin is None else guards.read_admin(admin)
    )
    process.check_open(host, guard, allowed=anyone)
    logs.start(log_level)

    from promptuary.backbones.load import load
    from promptuary.serve.engine import Limits
    from promptuary.serve.gate import Bounds

    process.serve(
        load(backbone, device=device or "auto"), store, imports=imports, host=host, port=port, guard=guard,
        anyone=anyone, limits=Limits(rows=max_rows, tokens=max_tokens, wait_s=wait_ms / 1000, queue=queue),
        bounds=Bounds(body_bytes=max_body_bytes, timeout_s=timeout_s),
    )  # fmt: skip


@app.command()
@told
def gateway(
    store: Annotated[Path, typer.Argument(help="A folder of such folders as `tune --out` writes: STORE/NAME.")],
    backbone: Annotated[str, typer.Option(help="The model they were tuned on, and that the vLLM runs.")],
    upstream: Annotated[str, typer.Option(help="Where the vLLM listens, with --enable-prompt-embeds.")],
    prefixes: Annotated[
        Path | None, typer.Option(help="The folder of deep prefixes that the vLLM's connector reads (docs/engines.md).")
    ] = None,
    upstream_key: Annotated[
        Path | None, typer.Option("--upstream-key-file", help="Its first line is the vLLM's API key.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Requests on their way to the vLLM.")] = 256,
    device: Device = None,
    host: Annotated[str, typer.Option(help="Where the gateway listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    keys: Annotated[Path | None, typer.Option(help="API keys and what they may ask, as for `serve`.")] = None,
    anyone: Annotated[bool, typer.Option("--open", help="Listen beyond this machine without keys.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="For an answer, a body, or a client that reads.")] = 60.0,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 1 << 20,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Answer for the prompts of a folder through a vLLM.

    It is unmodified and runs the same model. The API is that of `promptuary serve`, for tasks that write.
    """
    from promptuary.errors import SettingError

    try:
        from promptuary.serve import elsewhere, logs, process
        from promptuary.serve import keys as guards
    except ImportError as error:
        raise SettingError(f"{error.name} is not installed. Write: pip install 'promptuary[serve]'.") from error
    guard = guards.Guard(None if keys is None else guards.read_keys(keys), None)
    process.check_open(host, guard, allowed=anyone)
    secret = None if upstream_key is None else upstream_key.read_text(encoding="utf-8").partition("\n")[0].strip()
    logs.start(log_level)

    from promptuary.backbones.load import load
    from promptuary.serve.gate import Bounds

    elsewhere.gateway(
        load(backbone, device=device or "auto"), store, upstream, prefixes=prefixes, key=secret, at_once=at_once,
        host=host, port=port, guard=guard, bounds=Bounds(body_bytes=max_body_bytes, timeout_s=timeout_s),
    )  # fmt: skip


@app.command()
@told
def replicas(
    store: Annotated[Path, typer.Argument(help="A folder of such folders as `tune --out` writes: STORE/NAME.")],
    backbone: Annotated[str, typer.Option(help="The model they were tuned on: a short name, a folder, a hub name.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 2,
    cpus: Annotated[float, typer.Option(min=0, help="Processors that Ray sets aside for each.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs, or shares of one, for each.")] = 0.0,
    device: Device = None,
    host: Annotated[str, typer.Option(help="Where the application listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    keys: Annotated[Path | None, typer.Option(help="API keys and what they may ask, as for `serve`.")] = None,
    anyone: Annotated[bool, typer.Option("--open", help="Listen beyond this machine without keys.")] = False,
    max_rows: Annotated[int, typer.Option(min=1, help="Requests in the hands of each.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; beyond it the answer is 429.")] = 1024,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="For an answer, a body, or a client that reads.")] = 60.0,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 1 << 20,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Answer for the prompts of a folder by processes on Ray.

    Each has a model. The API is that of `promptuary serve`. The cluster is that at RAY_ADDRESS, or else this machine.
    """
    from promptuary.errors import SettingError

    try:
        import ray  # noqa: F401

        from promptuary.serve import elsewhere, logs, process
        from promptuary.serve import keys as guards
    except ImportError as error:
        raise SettingError(
            f"{error.name} is not installed. Write: pip install 'promptuary[serve]' 'ray[serve]'."
        ) from error
    guard = guards.Guard(None if keys is None else guards.read_keys(keys), None)
    process.check_open(host, guard, allowed=anyone)
    logs.start(log_level)

    from promptuary.backbones.load import load
    from promptuary.serve.gate import Bounds
    from promptuary.serve.limits import Limits

    elsewhere.replicated(
        load(backbone, device="cpu"), store, count, device=device or "auto", cpus=cpus, gpus=gpus,
        limits=Limits(rows=max_rows, queue=queue), host=host, port=port, guard=guard,
        bounds=Bounds(body_bytes=max_body_bytes, timeout_s=timeout_s),
    )  # fmt: skip


@app.command()
@told
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for the server's log.")],
    keys: Annotated[Path, typer.Option(help="The file that `serve --keys` reads; it is made where there is none.")],
    task: Annotated[list[str] | None, typer.Option(help="A task it may ask (repeatable; default all).")] = None,
    rows_per_minute: Annotated[int | None, typer.Option(min=1, help="Rows and texts (default no limit).")] = None,
    at_once: Annotated[int | None, typer.Option(min=1, help="Requests under way (default no limit).")] = None,
) -> None:
    """Make a key for the server and print it once.

    The file keeps its hash.
    """
    from promptuary.serve.keys import new_key

    print(new_key(keys, name, task or [], rows_per_minute=rows_per_minute, at_once=at_once))
    err.print(f"{name} may ask {', '.join(task or ['all tasks'])}. Its hash is in {keys}, the key itself nowhere.")
