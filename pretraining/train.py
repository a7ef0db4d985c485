"""Train one stage of the ladder: the loop, its record, its checkpoints.

A stage can be stopped at any moment; the same call goes on from the last checkpoint as if nothing had happened (batches
are a function of the step, there is no dropout, and the state holds weights, moments and schedule).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import corpus
import torch
import transformers
from accelerate import Accelerator
from muon import Muon
from objectives import Mixture, Steps, first_hidden
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel

if TYPE_CHECKING:
    from ladder import Stage

CORE_WEIGHT, EXTRA_WEIGHT = 2, 1  # a pass takes the core twice and the extra parts once
VALIDATION_BATCHES, VALIDATION_SEED = 8, 1
LOG, VALIDATE, SAVE_SECONDS = 50, 1000, 60.0
PEAK = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12}  # dense bf16 operations a second, by the data sheets


def build(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """A model with random weights, the same ones for a seed wherever it is built."""
    torch.manual_seed(seed)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_config(deepcopy(config), dtype=torch.float32)  # models write into their configurations


def restored(stage: Stage, folder: Path) -> PreTrainedModel:
    """The model that a finished stage left in its folder."""
    model = build(stage.config, stage.seed)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return model


def train(
    name: str,
    stage: Stage,
    tokens: Path,
    out: Path,
    *,
    steps: int,
    precision: str = "bf16",
    save: bool = True,
    compiled: bool = True,
) -> dict[str, Any]:
    """Train a stage to its end, or go on where it stopped; a finished stage is left alone.

    Arguments:
        out: the stage's folder is `out / name`: weights in bf16, `record.jsonl`, `summary.json`.
        precision: of the products, "bf16" or "no" (float32); the weights are float32 either way.
        save: whether anything is written at all.
        compiled: whether the step is compiled, which takes most of a minute and halves the time of a step.

    Returns: the summary: last scores, tokens seen, seconds a step, operations a second.
    """
    place = out / name
    if save and (place / "summary.json").exists():
        return dict(json.loads((place / "summary.json").read_text()))
    accelerator = Accelerator(mixed_precision=precision, step_scheduler_with_optimizer=False)
    device = accelerator.device
    torch.backends.cuda.matmul.allow_tf32 = True
    model = build(stage.config, stage.seed) if stage.after is None else restored(stage, out / stage.after)
    per_row = operations(stage)
    model.to(device).train()
    moving = optimizers(model, stage)
    schedules = [LambdaLR(one, shape(steps, stage.warmup, stage.last)) for one in moving]
    prepared = accelerator.prepare(*moving, *schedules)
    moving, schedules = prepared[: len(moving)], prepared[len(moving) :]

    def loss_of(batch: Mapping[str, Tensor]) -> Tensor:
        with accelerator.autocast():
            return model(**batch).loss

    def guided(batch: Mapping[str, Tensor], places: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        with accelerator.autocast():
            out = model(**batch)
            return out.loss, encoder_loss(model, out.encoder_last_hidden_state, places, hidden)

    step_loss = guided if stage.guide else loss_of
    step_loss = torch.compile(step_loss) if compiled else step_loss
    state = State(place / "state", accelerator, model)
    done = state.load() if save else 0
    if save:
        place.mkdir(parents=True, exist_ok=True)
        keep_until(place / "record.jsonl", done)
    known = Record(place / "record.jsonl" if save else None)
    known.write(
        event="start", step=done, steps=steps, name=name, torch=torch.__version__, rows=stage.rows, rate=stage.rate,
        transformers=transformers.__version__, device=str(device), objective=type(stage.objective).__name__,
        hardware=torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(), seed=stage.seed,
        operations_per_row=per_row, threads=torch.get_num_threads(), tokens_per_step=stage.rows * stage.objective.width,
        precision=precision, guide=stage.guide, matrix_rate=stage.matrix_rate,
    )  # fmt: skip
    data = Steps(
        Mixture(
            [*corpus.tokens(tokens, corpus.CORE), *corpus.tokens(tokens, corpus.EXTRA)],
            [CORE_WEIGHT] * len(corpus.CORE) + [EXTRA_WEIGHT] * len(corpus.EXTRA),
            stage.seed,
        ),
        stage.objective,
        stage.rows,
    )
    began = marked = time.perf_counter()
    saved, marked_step, pace = began, done, 0.0
    losses: list[Tensor] = []
    for step, batch in enumerate(batches(data, range(done, steps), device), start=done + 1):
        if stage.guide:
            loss, guide = step_loss(batch, *first_hidden(batch))
            accelerator.backward(loss + stage.guide * guide)
        else:
            loss = step_loss(batch)
            accelerator.backward(loss)
        if stage.clip:
            accelerator.clip_grad_norm_(model.parameters(), stage.clip)
        with accelerator.autocast():  # Muon's products
            for one in moving:
                one.step()
        for schedule in schedules:
            schedule.step()
        model.zero_grad()
        losses.append(loss.detach())
        if step <= 20 or step % LOG == 0 or step == steps:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            now = time.perf_counter()
            pace, marked, marked_step = (now - marked) / (step - marked_step), now, step
            rate = schedules[0].get_last_lr()[0]
            known.write(event="loss", step=step, loss=mean, rate=rate, seconds=now - began, pace=pace)
            if step % (10 * LOG) == 0:
                windows = stage.rows / pace
                print(
                    f"{name} {step:,}/{steps:,} loss {mean:.3f}, {windows * data.objective.width:,.0f} tokens/s",
                    flush=True,
                )
        if save and step % VALIDATE == 0 and step < steps:
            known.write(event="validation", step=step, **score(loss_of, model, stage, tokens, device))
            marked, marked_step = time.perf_counter(), step
        if save and step < steps and time.perf_counter() - saved > SAVE_SECONDS:
            state.save(step)
            saved = marked = time.perf_counter()
            marked_step = step
    scores = score(loss_of, model, stage, tokens, device)
    peak = PEAK.get(torch.cuda.get_device_name()) if device.type == "cuda" else None
    paces = known.paces() or [pace]
    pace = sorted(paces)[len(paces) // 2]
    summary = {
        **scores,
        "name": name,
        "steps": steps,
        "windows": steps * stage.rows,
        "tokens": steps * stage.rows * stage.objective.width,
        "seconds_per_step": pace,
        "seconds": pace * steps,
        "tokens_per_second": stage.rows * stage.objective.width / pace,
        "operations_per_second": per_row * stage.rows / pace,
        "mfu": per_row * stage.rows / pace / peak if peak else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "embedding": model.get_input_embeddings().weight.numel(),
    }
    print(json.dumps(summary), flush=True)
    if save:
        known.write(event="end", **summary)
        torch.save({k: v.cpu() for k, v in model.state_dict().items()}, place / "weights.pt")
        (place / "summary.json").write_text(json.dumps(summary, indent=2))
        state.remove()
    return summary


def encoder_loss(model: PreTrainedModel, states: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
    """How well the encoder itself knows, at each sentinel, the first token it hides; read by the output table.

    Without it a decoder gains nothing from reading an encoder that knows nothing, and an encoder that nobody reads
    learns nothing: small models stay there for a hundred million tokens (README).

    Arguments:
        states: (rows, inputs, dim). places, hidden: (rows, spans), from `first_hidden`.
    """
    at = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
    logits = model.lm_head(at * states.shape[-1] ** -0.5).flatten(0, 1).float()
    return nn.functional.cross_entropy(logits, hidden.flatten())


def optimizers(model: PreTrainedModel, stage: Stage) -> list[torch.optim.Optimizer]:
    """AdamW; for the matrices of the layers Muon, where the stage has a rate for them."""
    found = groups(model, stage)
    table = model.get_input_embeddings().weight

    def turned(group: Mapping[str, Any]) -> bool:
        [p] = group["params"]
        return bool(stage.matrix_rate) and p.ndim == 2 and p is not table and min(p.shape) > 8

    adamw = torch.optim.AdamW([g for g in found if not turned(g)], betas=(0.9, 0.98), eps=1e-9, fused=True)
    matrices = [{**g, "lr": g["lr"] / stage.rate * stage.matrix_rate} for g in found if turned(g)]
    if not matrices:
        return [adamw]
    return [adamw, Muon(matrices)]


def groups(model: PreTrainedModel, stage: Stage) -> list[dict[str, Any]]:
    """A rate for each tensor: the stage's times the root mean square of the numbers the tensor was drawn with.

    T5's tensors start between 0.005 (queries, for its attention is not scaled) and 1 (the embedding table); the
    Adafactor it was made with moves each in proportion to its size, and so does this. One rate for all is what held
    the first runs of the larger models on a plateau (README). Gains, which start at 1, move a tenth as fast as that.
    Vectors and position tables are not decayed.
    """
    fresh = dict(build(model.config, stage.seed).named_parameters())
    table = model.get_input_embeddings().weight
    found = []
    for name, p in model.named_parameters():
        scale = max(float(fresh[name].detach().square().mean().sqrt()), 1e-3) if p.ndim == 2 else 0.1
        decays = p.ndim == 2 and p is not table and "relative_attention_bias" not in name
        found.append({"params": [p], "lr": stage.rate * scale, "weight_decay": stage.decay if decays else 0.0})
    return found


def shape(steps: int, warmup: float, last: float) -> Callable[[int], float]:
    """Up from nothing, then a straight line down to `last` of the highest rate."""
    first = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < first:
            return (step + 1) / first
        return last + (1 - last) * max(0.0, (steps - step) / max(1, steps - first))

    return factor


def batches(data: Steps, steps: range, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """The batches of some steps on a device, made ahead by two processes."""
    cuda = device.type == "cuda"
    loader = DataLoader(
        data, batch_size=None, sampler=steps, num_workers=2, prefetch_factor=8, pin_memory=cuda
    )  # fmt: skip
    for batch in loader:
        yield {name: values.to(device, non_blocking=True) for name, values in batch.items()}


@torch.no_grad()
def score(
    loss_of: Callable[[Mapping[str, Tensor]], Tensor],
    model: nn.Module,
    stage: Stage,
    tokens: Path,
    device: torch.device,
) -> dict[str, float]:
    """Loss (nats a token) on the same held-out windows every time."""
    data = Steps(Mixture(corpus.tokens(tokens, (corpus.VALIDATION,)), [1], VALIDATION_SEED), stage.objective, 64)
    model.eval()
    losses = [loss_of({n: v.to(device) for n, v in data[i].items()}).item() for i in range(VALIDATION_BATCHES)]
    model.train()
    return {"validation_loss": sum(losses) / len(losses)}


def operations(stage: Stage) -> int:
    """Floating-point operations of a training step for one window: matrix products only, counted by PyTorch."""
    model = build(stage.config, 0)
    model.set_attn_implementation("eager")  # whose products are all counted
    blank = Steps(Mixture([torch.zeros(4096, dtype=torch.int64).numpy() + 5], [1], 0), stage.objective, 1)[0]
    counted = FlopCounterMode(display=False)
    with counted:
        model(**blank).loss.backward()
    return int(counted.get_total_flops())


class State:
    """The checkpoint of a stage: there is one, and it is whole."""

    def __init__(self, place: Path, accelerator: Accelerator, model: nn.Module) -> None:
        self.place, self.accelerator, self.model = place, accelerator, model

    def save(self, step: int) -> None:
        """Write beside the last one, then put it in its place."""
        fresh = self.place.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.save_state(fresh)
        torch.save(self.model.state_dict(), fresh / "weights.pt")
        (fresh / "step").write_text(str(step))
        old = self.place.with_suffix(".old")
        if self.place.exists():
            self.place.rename(old)
        fresh.rename(self.place)
        shutil.rmtree(old, ignore_errors=True)

    def load(self) -> int:
        """Go back to the last state: its step, or 0 where there is none."""
        old = self.place.with_suffix(".old")
        if not self.place.exists() and old.exists():
            old.rename(self.place)
        if not self.place.exists():
            return 0
        self.accelerator.load_state(self.place)
        self.model.load_state_dict(torch.load(self.place / "weights.pt", weights_only=True))
        return int((self.place / "step").read_text())

    def remove(self) -> None:
        """A finished stage needs none."""
        shutil.rmtree(self.place, ignore_errors=True)


class Record:
    """A line of JSON for everything that happened."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.found: list[float] = []

    def write(self, **line: Any) -> None:
        """Add a line."""
        if line["event"] == "loss" and line["step"] > 25:
            self.found.append(line["pace"])
        if self.file is not None:
            with self.file.open("a") as opened:
                opened.write(json.dumps(line) + "\n")

    def paces(self) -> list[float]:
        """Seconds a step, of all logged stretches but the first."""
        return self.found


def keep_until(file: Path, step: int) -> None:
    """Forget the lines of steps that will be done again."""
    if file.exists():
        lines = [line for line in file.read_text().splitlines() if json.loads(line).get("step", 0) <= step]
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text("".join(f"{line}\n" for line in lines))
        part.rename(file)
