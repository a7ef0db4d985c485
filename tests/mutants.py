"""Do the tests notice a broken core? Each mutant is one wrong line in a copy of the sources; every one must be killed.

`python tests/mutants.py` runs them all, `... mutants.py PATTERN` those whose file or old text contains PATTERN.
A survivor is a missing law.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src/promptuary")
HANGS_S = 300
WARM = multiprocessing.get_context("forkserver")  # what is slow to import is there before each mutant's process begins
WARM.set_forkserver_preload(["accelerate", "datasets", "hypothesis", "sklearn.metrics", "transformers.modeling_utils"])

PLACED = ("tests/unit/test_placements.py", "tests/oracles/test_arranged_lists.py", "tests/laws/test_real_tokens.py")
INJECTED = ("tests/unit/test_injections.py", "tests/oracles/test_naive_attention.py", "tests/laws/test_keys_values.py")
MADE = ("tests/unit/test_generators.py", "tests/unit/test_transforms.py", "tests/unit/test_initial.py")
METHODS = ("tests/unit/test_methods.py",)
HOOKED = ("tests/oracles/test_naive_attention.py", "tests/laws/test_keys_values.py", "tests/laws/test_rows.py")
BACKBONES = ("tests/unit/test_backbones.py", "tests/laws/test_real_tokens.py")
BUILT = ("tests/laws/test_construction.py",)
TRIED = ("tests/unit/test_trials.py",)
TRAINED = ("tests/laws/test_training.py",)
ISOLATED = ("tests/laws/test_isolation.py",)
ROWS = ("tests/laws/test_rows.py",)
DECIDED = ("tests/laws/test_decisions.py",)
LOOKED_UP = ("tests/unit/test_lookups.py",)
GENERATED = ("tests/laws/test_generation.py",)
AVERAGED = ("tests/laws/test_averages.py",)
FITTED = ("tests/unit/train/test_fit.py",)
TUNED = ("tests/unit/test_tuning.py",)
NOTED = ("tests/unit/train/test_entropies.py",)
ALARMED = ("tests/unit/train/test_alarms.py",)
INSPECTED = ("tests/unit/test_inspecting.py",)
PROJECTED = ("tests/unit/test_projecting.py",)
SHOWN = ("tests/unit/test_page.py",)
REPORTED = ("tests/unit/report/test_report.py",)
CHOSEN = ("tests/laws/test_choices.py",)
READ = ("tests/laws/test_reading.py",)
LATE = ("tests/laws/test_late.py",)
BLIND = ("tests/laws/test_blind.py",)
KEPT = ("tests/unit/test_activations.py",)
FEW = ("tests/laws/test_columns.py",)
MULTIPLIED = ("tests/laws/test_cpu_linear.py",)
MIXED = ("tests/laws/test_mixed.py",)
COMPILED = ("tests/laws/test_compiled.py",)
TEAMED = ("tests/unit/train/test_team.py",)
MAPPED, TOLD = ("tests/unit/data/test_kept.py",), ("tests/unit/test_cli.py",)
COLLATED = ("tests/unit/data/test_collate.py",)
BLENDED = ("tests/unit/data/test_mixture.py",)
BANKED = ("tests/unit/test_bank.py",)
TOGETHER = ("tests/unit/test_ensembles.py",)
ON_A_CPU = ("tests/laws/test_cpu_attention.py",)
LAZY = ("tests/laws/test_lazy.py",)
NORMED = ("tests/laws/test_norm.py",)
COUNTED = ("tests/laws/test_counts.py",)
STATED = ("tests/unit/test_published.py",)
PRETRAINED = ("tests/unit/test_pretrain.py",)
SCORED = ("tests/unit/test_metrics.py",)
WORDED = ("tests/unit/tasks/test_wordings.py",)
NAMED = ("tests/unit/tasks/test_tasks.py", *WORDED)
SERVED = ("tests/laws/test_serving.py",)
GIVEN_BACK = ("tests/unit/serve/test_memory.py",)
QUEUED = ("tests/unit/test_queues.py", "tests/unit/test_waiting.py")
SPELLED = ("tests/unit/test_spelling.py",)
STORED = ("tests/unit/test_store.py",)
KEYED = ("tests/unit/serve/test_keys.py",)
GATED = ("tests/unit/serve/test_gate.py",)
FRONT = ("tests/unit/serve/test_front.py",)
NEAR = ("tests/unit/test_errors.py",)
STREAMED = ("tests/unit/serve/test_streams.py",)
ASKED = ("tests/unit/serve/test_app.py",)
ADAPTED = ("tests/unit/interop/test_peft.py",)
STUDIED = ("tests/unit/bench/test_run.py",)
RESTORED = ("tests/unit/bench/test_restore.py",)
GROUPED = ("tests/unit/train/test_groups.py",)
RESAMPLED = ("tests/unit/bench/test_statistics.py",)
HELD_AGAINST = ("tests/unit/bench/test_compare.py",)
PLANNED = ("tests/unit/bench/test_plan.py",)
RIVALS = ("tests/unit/bench/test_baselines.py",)
ANY_KIND = ("tests/unit/bench/test_any_kind.py",)
RECOMMENDED = ("tests/unit/bench/test_recommend.py",)
CROSSED = ("tests/unit/interop/test_vllm.py",)
UPSTREAM = ("tests/unit/serve/test_upstream.py",)
TOGETHER_TAUGHT = ("tests/laws/test_multitask.py",)
SEVERAL = ("tests/unit/test_multitask.py",)
READOUTS = ("tests/unit/test_readouts.py", *CHOSEN)


@dataclass(frozen=True)
class Mutant:
    file: str
    old: str
    new: str
    tests: Sequence[str]


MUTANTS = (
    # where soft tokens stand
    Mutant("placements.py", "rank * (prompt + 1) + prompt], 1)", "rank * (prompt + 1)], 1)", PLACED),
    Mutant(
        "placements.py",
        "_sources(gaps, x.mask.cumsum(1) - 1, present)",
        "_sources(gaps, x.mask.cumsum(1), present)",
        PLACED,
    ),
    Mutant(
        "placements.py",
        "_sources(gaps, x.mask.cumsum(1) - 1, present)",
        "_sources(gaps, torch.arange(x.ids.shape[1]).expand(x.ids.shape), present)",
        PLACED,
    ),
    Mutant("placements.py", "[p.keep > 0, x.mask if", "[p.keep > -1, x.mask if", ROWS),
    Mutant("placements.py", "x.embeds], 1)\n    types", "x.embeds.to(p.values.dtype)], 1)\n    types", PLACED),
    Mutant("placements.py", "x.types.new_zeros(p.keep.shape)", "x.types.new_ones(p.keep.shape).long()", PLACED),
    Mutant("placements.py", "types=types.gather(1, source)", "types=types", PLACED),
    Mutant("placements.py", "column = source.argsort(dim=1)", "column = source", PLACED),
    Mutant("placements.py", "real.clamp(max=head)", "real.clamp(max=0)", PLACED),
    Mutant("placements.py", "(real - tail).maximum(start)", "(real - tail)", PLACED),
    Mutant("placements.py", "(real - tail).max", "real.max", PLACED),
    Mutant("placements.py", "< (prompt if self.before", "<= (prompt if self.before", PLACED),
    Mutant("placements.py", "marks = (x.ids < 0) & x.mask", "marks = x.ids < 0", PLACED),
    Mutant("placements.py", "tokens=x.mask & ~marks", "tokens=x.mask", PLACED),
    Mutant("placements.py", "torch.where(marks, laid.prompts", "torch.where(marks & False, laid.prompts", PLACED),
    Mutant("placements.py", "if bool((counts != prompt).any())", "if bool((counts < prompt).any())", BUILT),
    Mutant("placements.py", "self.before > length", "self.before > length + 1", BUILT),
    # how they enter
    Mutant(
        "injections.py",
        "flat[..., : a.heads * a.key], flat[..., a.heads * a.key :]",
        "flat[..., a.heads * a.key :], flat[..., : a.heads * a.key]",
        INJECTED,
    ),
    Mutant("injections.py", "b p (heads k) -> b heads p k", "b p (k heads) -> b heads p k", INJECTED),
    Mutant("injections.py", "keys_values, keep = {}, p.keep > 0", "keys_values, keep = {}, p.keep > -1", INJECTED),
    Mutant("injections.py", "bare(x), keys_values, start=_starts(self.start, x)", "bare(x), keys_values", INJECTED),
    Mutant(
        "injections.py",
        "enumerate(shape.attention) if a.part in chosen",
        "enumerate(a for a in shape.attention if a.part in chosen)",
        INJECTED,
    ),
    Mutant("injections.py", "return self.start\n\n    def accepts", "return length\n\n    def accepts", INJECTED),
    Mutant(
        "injections.py",
        "b p (layers hidden) -> layers b p hidden",
        "b p (hidden layers) -> layers b p hidden",
        ("tests/unit/test_injections.py",),
    ),
    Mutant("injections.py", "start < 0 or (start and both)", "start < 0", INJECTED),
    Mutant("backbones/encoder.py", 'columns + rearrange(start, "b -> b 1")', "columns + 0 * start[:, None]", INJECTED),
    Mutant("backbones/encoder.py", ".where(call.layout.mask, 0) + first_position(self.model)", "", INJECTED),
    # adapters of PEFT
    Mutant("backbones/turning.py", "((0, by) if by > 0 else (-by, 0))", "((0, by) if by > 0 else (0, -by))", ADAPTED),
    Mutant("backbones/turning.py", "None if _apart(value, same, loose) else _angles", "_angles", ADAPTED),
    Mutant("interop/vllm.py", "Embedded(row[there].cpu())", "Embedded(row[: int(there.sum())].cpu())", CROSSED),
    Mutant("interop/vllm.py", "len(table) - model.injection.occupies(len(table))", "len(table)", CROSSED),
    Mutant("interop/vllm.py", "(*([0] * length), *row[there].tolist())", "(*row[there].tolist(),)", CROSSED),
    Mutant("interop/connector.py", "own[i // self._size] * self._size + i %", "own[0] * self._size + i %", CROSSED),
    Mutant("interop/connector.py", "t[load.first :].to", "t[: len(slots)].to", CROSSED),
    Mutant("interop/connector.py", "if len(key) != load.length", "if len(key) < 0", CROSSED),
    Mutant("serve/upstream.py", "        if not over:\n", "        if False:\n", UPSTREAM),
    Mutant("serve/upstream.py", "                    self._name = None", "                    pass", UPSTREAM),
    Mutant("serve/upstream.py", '"temperature": 0.0 if how.sampling is None else', '"temperature":', UPSTREAM),
    Mutant("interop/peft.py", "len(table) - model.injection.occupies(len(table))", "len(table)", ADAPTED),
    Mutant("interop/peft.py", "table[: config.num_virtual_tokens].float()", "table.float()", ADAPTED),
    Mutant(
        "interop/peft.py", "prompts[0].tolist() != list(range(len(table)))", "prompts.shape[1] != len(table)", ADAPTED
    ),
    Mutant("interop/peft.py", 'heads * key, "num_attention_heads"', 'shape.dim, "num_attention_heads"', ADAPTED),
    # who makes them
    Mutant("generators.py", "manual_seed(seed)", "manual_seed(0)", MADE),
    Mutant("generators.py", "nn.Parameter(start.float(),", "nn.Parameter(start,", MADE),
    Mutant("generators.py", "requires_grad=length > 0", "requires_grad=True", MADE),
    Mutant("generators.py", "if inner.length == 0:", "if False:", BUILT),
    Mutant("generators.py", ".amax(0)", ".amin(0)", MADE),
    Mutant(
        "generators.py",
        "return self._through(self.inner(x)) if one is None else shared(one, x)",
        "return self._through(self.inner(x))",
        MADE,
    ),
    Mutant("generators.py", "self.length, self.width = transform.shape(self.length, self.width)", "pass", MADE),
    Mutant(
        "transforms.py",
        'return Prompt(values * rearrange(keep, "b p -> b p 1"), keep)',
        "return Prompt(values, keep)",
        MADE,
    ),
    Mutant("transforms.py", "nn.Sequential(*layers[:-1])", "nn.Sequential(*layers)", MADE),
    Mutant("transforms.py", "[0], p.keep)", "[0] * 0, p.keep)", MADE + METHODS),
    Mutant("transforms.py", "p.values * self.factor", "p.values", MADE),
    Mutant(
        "transforms.py",
        "        torch.default_generator.manual_seed(seed + NETWORKS)  # torch.manual_seed would reach every GPU too\n",
        "",
        METHODS,
    ),
    Mutant("transforms.py", "with torch.random.fork_rng(devices=[]):", "if True:", METHODS),
    Mutant("methods/p_tuning.py", "Scaled(shape.deviation / spread if spread else 1.0)", "Scaled(1.0)", METHODS),
    Mutant("initial.py", "math.sqrt(3.0)", "math.sqrt(12.0)", MADE),
    Mutant("initial.py", "torch.randperm(len(frequent), generator=seed)", "torch.randperm(len(frequent))", MADE),
    Mutant("initial.py", "if length <= len(frequent):", "if False:", MADE),
    Mutant("initial.py", ".mean(0) for ids", ".sum(0) for ids", MADE),
    Mutant("initial.py", "return values.detach().float().cpu().clone()", "return values.detach().float().cpu()", MADE),
    # the three parts together
    Mutant(
        "model.py", "self._backbone = (backbone,)", "self.inner = backbone.model; self._backbone = (backbone,)", TRAINED
    ),
    Mutant("model.py", "if self.training and self.dropout:", "if self.dropout:", TRAINED),
    Mutant("model.py", "injection.accepts(generator.length)", "pass", BUILT),
    Mutant("model.py", "self.room < 1", "self.room < 0", BUILT),
    Mutant("model.py", "ids.new_zeros(ids.shape) if types is None else types,", "ids.new_zeros(ids.shape),", PLACED),
    Mutant("values.py", "return self.heard & {", "return frozenset() | {", READ),
    # the hook
    Mutant(
        "backbones/attention.py",
        "repeat(expanded(soft.keep, rows),",
        "repeat(expanded(torch.ones_like(soft.keep), rows),",
        HOOKED,
    ),
    Mutant("backbones/attention.py", "if mask is None and not self.whole(soft.keep):", "if False:", HOOKED),
    Mutant(
        "backbones/attention.py",
        "mask = told(module, query, key, mask)\n        if mask is None and not self.whole",
        "if mask is None and not self.whole",
        HOOKED,
    ),
    Mutant(
        "backbones/attention.py",
        'asking == 1 or not getattr(module, "is_causal", True):',
        "asking == 1:",
        HOOKED,
    ),
    Mutant(
        "backbones/attention.py",
        "attention_mask = told(module, query, key, attention_mask)",
        "pass",
        ("tests/laws/test_keys_values.py", "tests/laws/test_real_tokens.py"),
    ),
    Mutant("backbones/attention.py", "bias.new_zeros(", "bias.new_ones(", HOOKED),
    Mutant(
        "backbones/attention.py",
        "torch.cat([expanded(soft.key.to(key.dtype), rows), key], 2)",
        "torch.cat([key, expanded(soft.key.to(key.dtype), rows)], 2)",
        HOOKED,
    ),
    Mutant(
        "backbones/attention.py",
        "expanded(soft.value.to(value.dtype), rows)",
        "expanded(soft.value.to(value.dtype), rows) * 0",
        HOOKED,
    ),
    Mutant("backbones/attachment.py", "return seen % times", "return 0", ("tests/unit/test_backbones.py", *HOOKED)),
    Mutant(
        "backbones/attachment.py",
        "        if visit.main:\n            args,",
        "        if True:\n            args,",
        GENERATED,
    ),
    Mutant("backbones/attachment.py", "class _Place(threading.local):", "class _Place:", ISOLATED),
    Mutant("backbones/attachment.py", "self._place.promise = None\n", "pass\n", ISOLATED),
    Mutant("backbones/attachment.py", 'part_of[layer] if place == 0 else "cross"', "part_of[layer]", INJECTED),
    Mutant(
        "backbones/attachment.py",
        "expanded(call.layout.prompts.where(states.keep > 0, length), rows)",
        "expanded(call.layout.prompts, rows)",
        ROWS,
    ),
    Mutant("backbones/attachment.py", "call, call.states[layer])", "call, call.states[min(call.states)])", TRAINED),
    Mutant(
        "backbones/padding.py",
        "given.repeat_interleave(rows // given.shape[0], dim=0)",
        "given.repeat(rows // given.shape[0], *([1] * (given.dim() - 1)))",
        GENERATED,
    ),
    Mutant("backbones/attachment.py", "if id(keep) not in self.known:", "if True:", HOOKED),
    Mutant(
        "backbones/attention.py", "lowest = max(torch.finfo(query.dtype).min, ", "lowest = min(-float('inf'), ", CHOSEN
    ),
    # the frozen model
    Mutant(
        "backbones/backbone.py",
        "model.requires_grad_(False)",
        "pass",
        ("tests/laws/test_training.py", "tests/unit/test_backbones.py"),
    ),
    Mutant(
        "backbones/backbone.py",
        "return embeds.masked_fill(",
        "return embeds if True else embeds.masked_fill(",
        BACKBONES,
    ),
    Mutant("backbones/backbone.py", "pad_token_id) + 1 if counted else 0", "pad_token_id) * 0", INJECTED),
    Mutant(
        "backbones/backbone.py",
        "attention_mask=layout.mask.long(),",
        "attention_mask=torch.ones_like(layout.mask).long(),",
        ROWS,
    ),
    Mutant(
        "backbones/identity.py",
        "made.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)",
        "pass",
        TRAINED,
    ),
    Mutant("backbones/padding.py", "(layout.tokens + shift) % length", "layout.tokens", BACKBONES),
    Mutant("backbones/trials.py", "if torch.equal(outs[0], outs[1]):", "if False:", BUILT),
    Mutant("backbones/backbone.py", "if not trials.reads(self):", "if False:", TRIED),
    Mutant("backbones/backbone.py", "trials.alone(self)\n", "pass\n", TRIED),
    Mutant("backbones/backbone.py", 'if how.cache == "static" and not self._allots:', "if False:", TRIED),
    Mutant("backbones/decoder.py", "if not (self._goes_on_writing and", "if not (", TRIED),
    Mutant("backbones/decoder.py", "> 1 and not self._writes_together:", "> 1 and False:", TRIED),
    Mutant("backbones/encoder.py", "layout.types if segments", "layout.types * 0 if segments", PLACED),
    Mutant("backbones/decoder.py", "self.packs = trials.packs(self)", "self.packs = False", CHOSEN),
    Mutant("backbones/decoder.py", "if choices == 1 or steps == 1 or self.packs:", "if True:", CHOSEN),
    Mutant("backbones/decoder.py", 'else positions) + rearrange(call.start, "b -> b 1")', "else positions)", INJECTED),
    Mutant("backbones/decoder.py", "(own if positions is None else positions)", "own", CHOSEN),
    # several texts behind one row
    Mutant("backbones/packing.py", "before = row - 1 + torch", "before = row + torch", PLACED),
    Mutant("backbones/packing.py", "(rank > 0, earlier + rank, 0)", "(rank > 0, rank, 0)", CHOSEN),
    Mutant("backbones/packing.py", "fed = targets.mask & (rank < rank[..., -1:])", "fed = targets.mask", CHOSEN),
    Mutant("backbones/packing.py", "_flat(row + rank)", "_flat(rank)", CHOSEN),
    Mutant("backbones/sight.py", "(text[batch, key] == 0) | ", "", CHOSEN),
    Mutant("backbones/sight.py", " | (text[batch, key] == text[batch, query])", "", CHOSEN),
    Mutant("backbones/sight.py", "position[batch, query], position[batch, key]", "query, key", CHOSEN),
    Mutant("backbones/packing.py", ".masked_fill(~present, 0)", "", CHOSEN),
    Mutant("backbones/sight.py", "class _Place(threading.local):", "class _Place:", ISOLATED),
    Mutant(
        "backbones/packing.py",
        "source = (~present).int().argsort(dim=1, stable=True)",
        "source = torch.arange(present.shape[1]).expand(present.shape).clone()",
        PLACED,
    ),
    Mutant("backbones/padding.py", "positions.amax(1) + 1", "positions.amax(1)", CHOSEN),
    Mutant("backbones/encoder_decoder.py", "ids.gather(1, first)[:, :-1]", "ids[:, :-1]", PLACED),
    Mutant(
        "backbones/encoder_decoder.py",
        "at(out.last_hidden_state, first.argsort(dim=1))",
        "out.last_hidden_state",
        PLACED,
    ),
    Mutant(
        "backbones/encoder_decoder.py",
        'repeat(call.layout.mask.long(), "b l -> (b c) l", c=choices)',
        'repeat(call.layout.mask.long(), "b l -> (c b) l", c=choices)',
        PLACED,
    ),
    Mutant(
        "backbones/encoder_decoder.py",
        "expanded(kv.value, rows), each",
        "kv.value.repeat(times, 1, 1, 1), each",
        HOOKED,
    ),
    # how they are trained, chosen and kept
    Mutant("train/stepper.py", "(self.readout.count(own) / max(1, answered))", "(1 / len(batches))", AVERAGED),
    Mutant("train/stepper.py", "self.team.sum_gradients(self.named.values())", "pass", TEAMED),
    Mutant("train/entropies.py", "self.team.sum([self.rows", "list([self.rows", TEAMED),
    Mutant("train/fit.py", "if self.team.size > 1:", "if False:", TEAMED),
    Mutant("data/batch.py", "(first - before) % step", "first", TEAMED),
    Mutant(
        "train/evaluation.py", "float(readout.loss(out, moved)) * count", "float(readout.loss(out, moved))", AVERAGED
    ),
    Mutant("readouts/language_model.py", "int(_texts(batch).mask.sum())", "len(batch.ids)", AVERAGED),
    Mutant("readouts/readout.py", "return known(labels_of(batch))", "return len(labels_of(batch))", AVERAGED),
    Mutant("train/state.py", "torch.default_generator.manual_seed(seed)", "torch.manual_seed(seed)", FITTED),
    Mutant("train/fit.py", 'if model.backbone.int8 == "dynamic":', "if False:", FITTED),
    Mutant("train/fit.py", "(1 / SAVING - 1)", "0", ("tests/unit/train/test_resume.py",)),
    Mutant("train/alarms.py", "if heard.all() or not heard.any():", "if heard.any():", FITTED),
    Mutant("tuned.py", "measure=measure, precision=self.precision)", "measure=measure)", TUNED),
    Mutant("tuned.py", "with torch.no_grad(), arithmetic(self.backbone.device, self.precision):", "if True:", TUNED),
    Mutant("prepared.py", "with arithmetic(backbone.device, recipe.precision):", "if True:", TUNED),
    Mutant("data/example.py", '        made.update(b"set")', "        pass", TUNED),
    Mutant("places.py", "        if not overwrite:\n            raise\n", "        raise\n", TUNED),
    # tables of a vocabulary, and what is trained before any prompt
    Mutant("initial.py", "vectors[:, -rank:]", "vectors[:, :rank]", MADE),
    Mutant("lookups.py", "ids.masked_fill(~gradient.any(2), self.table.size)", "ids", (*LOOKED_UP, *COUNTED)),
    Mutant("lookups.py", "if self.training and found.requires_grad:", "if found.requires_grad:", LOOKED_UP),
    Mutant("generators.py", "sum(sizes[: len(sizes) - taken])", "0", COUNTED),
    Mutant("choices.py", "(len(self.bias) - 1) * self.options if self.trained", "0 if self.trained", COUNTED),
    Mutant("readouts/by_task.py", "sum(sizes) - max(sizes)", "0", COUNTED),
    Mutant(
        "multitask/tuning.py", "count(alone, read, silent)", "count(alone, read)", ("tests/unit/test_multitask.py",)
    ),
    Mutant("methods/prompt_tuning.py", "clip=0.0", "clip=1.0", STATED),
    Mutant("methods/p_tuning.py", "batch=2, steps=3500", "batch=32, steps=3500", STATED),
    Mutant("lookups.py", ".mean(2)\n\n    def used", ".sum(2)\n\n    def used", STATED),
    Mutant("methods/ipt.py", "scale=0.05 if scale", "scale=0.5 if scale", STATED),
    Mutant("methods/ipt.py", "Elementwise(nn.ReLU()), Elem", "Elementwise(nn.Identity()), Elem", STATED),
    Mutant("methods/ipt.py", "nn.Dropout(0.5)", "nn.Dropout(0.1)", STATED),
    Mutant("methods/lpt.py", "max(1, shape.layers // 2)", "1", STATED),
    Mutant("transforms.py", "manual_seed(seed + NETWORKS)", "manual_seed(seed)", METHODS),
    Mutant("methods/ipt.py", "begun, seed=seed + 1000)", "begun, seed=seed)", METHODS),
    Mutant("initial.py", "if len(known) > length:", "if False:", MADE),
    Mutant("methods/dp.py", "int(official or not shape.encodes)", "int(not shape.encodes)", DECIDED),
    Mutant("methods/dp.py", "choice(position, length + 1, length)", "choice(position, length + 1, 0)", DECIDED),
    Mutant("methods/dp.py", 'entropy=0.0 if level == "random" else entropy', "entropy=0.0", DECIDED),
    Mutant("methods/dp.py", "temperature=cooling", "temperature=parts.schedule('constant')", DECIDED),
    Mutant("choices.py", "F.layer_norm(query, query.shape[-1:])", "query", DECIDED),
    Mutant(
        "choices.py",
        "return max(math.exp(-self.rate * step), self.last)",
        "return math.exp(-self.rate * step)",
        DECIDED,
    ),
    Mutant("train/stepper.py", "choices * (len(own.ids) / rows)", "choices", FITTED),
    Mutant("counts.py", "nominal - idle)", "nominal)", COUNTED),
    Mutant("counts.py", "- unheard", "", COUNTED),
    Mutant("train/lazy.py", "some = gradient.values().any(1)", "some = gradient.values().any(1) | True", LAZY),
    Mutant("train/lazy.py", 'p[rows] * (1 - rate * group["weight_decay"])', "p[rows]", LAZY),
    Mutant("train/lazy.py", 'steps = state["step"][rows] + 1', 'steps = state["step"][rows] * 0 + 1', LAZY),
    Mutant("train/lazy.py", "            p.grad = None  #", "            pass  #", LAZY),
    Mutant("train/lazy.py", "        stand.grad = rows  #", "        stand.grad = rows.clone()  #", LAZY),
    Mutant("train/fit.py", "dict(s.model.named_buffers())", "{}", LAZY),
    Mutant("pretrained.py", "if fingerprint(tokenizer) != found.tokenizer:", "if False:", PRETRAINED),
    Mutant("pretrained.py", 'if not name.endswith("touched")]', "]", PRETRAINED),
    Mutant("pretrained.py", 'wanted.remove("inner.fill")', "wanted = wanted[:1]", PRETRAINED),
    Mutant("tuned.py", "if name not in STARTS}", "}", PRETRAINED),
    Mutant("prepared.py", "if setting not in STARTS or value is None:", "if True:", PRETRAINED),
    Mutant("backbones/idle.py", "soft.keep.sum(1)", "torch.ones_like(soft.keep).sum(1)", PRETRAINED),
    # what is read
    Mutant("readouts/readout.py", 'frozenset({"encoder"} if shape.encodes else {"decoder"})', "shape.parts", READ),
    Mutant("readouts/verbalizers.py", "out.once(self.beginnings.logits)", "self.beginnings.logits(out)", READOUTS),
    Mutant("readouts/words.py", " if beginning not in inner]", "]", READOUTS),
    Mutant("readouts/language_model.py", "(labels != -1).nonzero()", "(labels > 0).nonzero()", READOUTS),
    Mutant("values.py", "key = (f, given, torch.is_grad_enabled())", "key = (f, given)", CHOSEN),
    Mutant("values.py", "key = (f, given, torch", "key = (f, torch", ("tests/unit/test_values.py",)),
    # what is chosen, and what is made from the input
    Mutant(
        "choices.py",
        "if not self.training:\n            return self._settled",
        "if False:\n            return",
        DECIDED,
    ),
    Mutant("choices.py", 'if self.mode == "top" or not self.control', "if True", DECIDED),
    Mutant("choices.py", ".masked_fill(~x.mask, 0).sum(1) *", ".sum(1) *", DECIDED),
    Mutant(
        "choices.py",
        "with torch.autocast(query.device.type, enabled=False):\n                logits",
        "if True:\n                logits",
        DECIDED,
    ),
    Mutant("choices.py", "return spread * (2", "return 0 * (2", DECIDED),
    Mutant("methods/dp.py", "torch.relu if official and level", "torch.relu if level", DECIDED),
    Mutant("methods/dp.py", "torch.tanh if official and position is None", "torch.tanh if official", DECIDED),
    Mutant("bench/plan.py", "if report in used:", "if False:", PLANNED),
    Mutant("bench/statistics.py", "min(low, centre - below)", "low", RESAMPLED),
    Mutant("bench/statistics.py", "if bounds[0] >= 0:\n        return up", "if True:\n        return up", RESAMPLED),
    Mutant("bench/restore.py", 'if trial["number"] == entry.job.number:', "if True:", RESTORED),
    Mutant("train/groups.py", ' or name.rpartition(".")[2] == "bias"', "", GROUPED),
    Mutant("model.py", "with self.backbone.evaluating():", "if True:", DECIDED),
    Mutant("controls.py", "read.roll(1, 0) if len(read) > 1 else torch.zeros_like(read)", "read.roll(1, 0)", DECIDED),
    Mutant("controls.py", "torch.zeros_like(x.mask)) if alone else x", "x.mask) if alone else x", DECIDED),
    Mutant("controls.py", 'reader.requires_grad_(False) if control == "frozen" else reader', "reader", DECIDED),
    Mutant("methods/ipt.py", "len(at.layers) < len(widths)", "False", DECIDED),
    Mutant("placements.py", "torch.autocast(items.device.type, enabled=False)", "torch.enable_grad()", DECIDED),
    Mutant("choices.py", "return value + (weights - weights.detach())", "return value", DECIDED),
    Mutant("choices.py", "states.detach().float() * weights", "states.float()", DECIDED),
    Mutant("choices.py", "rand_like(logits[:1] if shared else logits)", "rand_like(logits)", DECIDED),
    Mutant("choices.py", "step * (step + 1) / 2", "step", DECIDED),
    Mutant("choices.py", "-(logs.exp() * logs).sum(-1)", "-logs.mean(-1)", NOTED),
    Mutant("train/entropies.py", "self.rows += len(x.ids)", "self.rows += 1", NOTED),
    Mutant("train/entropies.py", "self.rows, self.sums = 0, {}", "self.rows = 0", NOTED),
    Mutant("train/entropies.py", 'self.rows, self.sums = notes["rows"], dict(notes["sums"])', "pass", NOTED),
    Mutant("train/entropies.py", "if choice.options > 1", "if choice.options > 0", NOTED),
    Mutant("train/alarms.py", "max(RISE * abs(mean(low)), 3 * noise)", "RISE * abs(mean(low))", ALARMED),
    Mutant("train/alarms.py", "min(range(4), key=", "min(range(1), key=", ALARMED),
    Mutant("train/fit.py", "alarms.risen(losses) or alarms.still(losses)", "alarms.still(losses)", ALARMED),
    Mutant("train/alarms.py", "if 4 * event", "if 1 * event", ALARMED),
    Mutant("train/alarms.py", "if name in trained and share", "if share", ALARMED),
    # what a prompt does with rows
    Mutant("inspecting.py", "place = torch.cat(order).argsort()", "place = torch.cat(order)", INSPECTED),
    Mutant("inspecting.py", "2 * ahead.sum(2) < real.sum(2)", "ahead.sum(2) < real.sum(2)", INSPECTED),
    Mutant("inspecting.py", "real = rearrange(x.mask & (x.ids >= 0)", "real = rearrange(x.mask", INSPECTED),
    Mutant("inspecting.py", "weights = rearrange((p.keep > 0)", "weights = rearrange((p.keep > -1)", INSPECTED),
    Mutant(
        "inspecting.py", 'picked = whole["sampled rows"].argsort()', 'picked = whole["sampled rows"] * 0', INSPECTED
    ),
    Mutant("projecting.py", ".fill_diagonal_(torch.inf)", "", PROJECTED),
    Mutant("projecting.py", "(nearest & same).sum(1) / nearest.sum(1)", "(nearest & same).any(1).float()", PROJECTED),
    Mutant("projecting.py", "centred = (vectors - vectors.mean(0))", "centred = vectors", PROJECTED),
    Mutant("show.py", "decided.entropy[own].mean()", "decided.entropy.mean()", SHOWN),
    Mutant("show.py", "labels = seen.grouped()[seen.sampled][known]", "labels = seen.grouped()[seen.sampled]", SHOWN),
    Mutant("markup.py", "body=_apart(", "body=(", SHOWN),
    Mutant("markup.py", "<td>{escape(cell)}</td>", "<td>{cell}</td>", SHOWN),
    Mutant("markup.py", "<h2>{escape(title)}</h2>", "<h2>{title}</h2>", SHOWN),
    Mutant("drawing.py", "matplotlib.rcdefaults()", "pass", SHOWN),
    Mutant("placements.py", ">= prompt - rearrange(options", "> prompt - rearrange(options", DECIDED),
    Mutant("placements.py", "scatter_add(2, index, shares)", "scatter_add(2, index, shares.detach())", DECIDED),
    Mutant("generators.py", "p.keep * (gates.detach() > 0.5)", "p.keep", DECIDED),
    Mutant("generators.py", ".flip(1).cumsum(1).flip(1)[:, 1:]", ".cumsum(1)[:, 1:]", DECIDED),
    Mutant(
        "backbones/attachment.py", "rows).to(hidden.dtype) @ soft", "rows).detach().to(hidden.dtype) @ soft", DECIDED
    ),
    Mutant("lookups.py", "place % self.stride == 0", "place % self.stride <= 1", LOOKED_UP),
    Mutant("lookups.py", "read = x.mask & (x.ids >= 0)", "read = x.mask", LOOKED_UP),
    Mutant("pooling.py", "places > last, 0.0", "places > last + 9, 0.0", LOOKED_UP),
    Mutant("pooling.py", "[states[-2], states[-1]]", "[states[-1], states[-2]]", LOOKED_UP),
    Mutant("transforms.py", "at : at + width] * self.scale", "at : at + width]", (*DECIDED, *LOOKED_UP)),
    # soft tokens that join in the middle
    Mutant(
        "backbones/attachment.py", "visit.layer < self.call.entry.layer", "visit.layer <= self.call.entry.layer", LATE
    ),
    Mutant("backbones/attachment.py", "layer == call.entry.layer:", "layer == call.entry.layer + 1:", LATE),
    Mutant("backbones/attachment.py", "if layer == call.until:", "if layer == 2:", LATE),
    Mutant("backbones/attachment.py", "(hidden, *made[1:]) if isinstance", "(hidden, *[None] * 2) if isinstance", LATE),
    Mutant("injections.py", "x.once(encoding, self.layer)", "encoding(x, self.layer)", LATE),
    Mutant("injections.py", "if not 0 < layer < shape.layers", "if not 0 <= layer < shape.layers", LATE),
    # the activation of GPT-2 and T5 v1.1; attention with gradients; the road of a product
    Mutant("backbones/cpu_attention.py", "moved if to_mask.shape[1] > 1", "moved if True", ON_A_CPU),
    Mutant("backbones/cpu_attention.py", "to_value, to_mask, None, None", "to_value, None, None, None", ON_A_CPU),
    Mutant("backbones/cpu_linear.py", 'there and asked != "plain" and', "there and", MULTIPLIED),
    Mutant("backbones/cpu_linear.py", '(asked == "onednn" or bool', "(False or bool", MULTIPLIED),
    Mutant("backbones/measured.py", "os.link(file.name, path)", "os.replace(file.name, path)", MULTIPLIED),
    Mutant(
        "backbones/measured.py",
        "    except OSError:\n        known = _value(path)",
        "    except ():\n        pass",
        MULTIPLIED,
    ),
    Mutant("backbones/measured.py", '"torch": torch.__version__, ', "", MULTIPLIED),
    Mutant("backbones/cpu_linear.py", "for _ in range(16)]", "for _ in range(2)]", ("tests/laws/test_cpu_linear.py",)),
    Mutant("show.py", "middle + spread * torch.randn", "torch.randn", ("tests/unit/test_show.py",)),
    Mutant("backbones/activation.py", 'approximate="tanh"', 'approximate="none"', ("tests/laws/test_activation.py",)),
    Mutant(
        "backbones/activation.py",
        "if type(module) is NewGELUActivation",
        "if False",
        ("tests/laws/test_activation.py",),
    ),
    # soft tokens that do not see the input
    Mutant("backbones/blind.py", "seen = ~rearrange(self.soft", "seen = rearrange(self.soft", BLIND),
    Mutant("backbones/blind.py", "mask.shape[2] > 1", "mask.shape[2] > 999", BLIND),
    Mutant("backbones/blind.py", "part[:, count:] for part", "part for part", BLIND),
    Mutant("backbones/blind.py", "(p.keep > 0).all() & ", "", BLIND),
    Mutant("backbones/blind.py", "& (prompts == columns).all()", "", BLIND),
    Mutant("backbones/blind.py", "p.values[:1] if p.values.stride(0) == 0", "p.values[:1] if True", BLIND),
    Mutant(
        "backbones/blind.py",
        "[:, :, self.count :])\n            bias",
        "[:, :, : -self.count])\n            bias",
        BLIND,
    ),
    Mutant("backbones/reading.py", "else columns - own.shape[1]", "else columns", BLIND),
    Mutant("backbones/reading.py", "torch.cat([expanded(own,", "torch.cat([0 * expanded(own,", BLIND),
    Mutant("mixing.py", "_prompts([call.blind for call in calls], calls) if", "None if", BLIND),
    Mutant("backbones/blind.py", "_Masked(soft, kwargs.get(NAME))", "_Masked(soft, None)", BLIND),
    Mutant("backbones/blind.py", "if call.keys_values:", "if False:", BLIND),
    Mutant("injections.py", "None if self.sees_input else p)", "None)", BLIND),
    # states that are kept
    Mutant("activations.py", "json.dumps(told, sort_keys=True, default=str).encode()", 'b""', KEPT),
    Mutant("activations.py", "[backbone.digest(), settings, ", "[settings, ", KEPT),
    Mutant("activations.py", "[backbone.digest(), settings, ", "[backbone.digest(), ", KEPT),
    Mutant("activations.py", "str(backbone.dtype), precision,", "str(backbone.dtype),", KEPT),
    Mutant("activations.py", 'if name != "_name_or_path"', "", KEPT),
    Mutant("activations.py", "tobytes(), types[row, real].numpy().tobytes()]", "tobytes()]", KEPT),
    Mutant("activations.py", "ids[row, real].numpy()", "ids[row].numpy()", KEPT),
    Mutant("activations.py", "(mask.cumsum(1).gather(1, columns.cpu()) - 1).numpy()", "columns.cpu().numpy()", KEPT),
    Mutant("activations.py", ", repr(until).encode()]", "]", KEPT),
    Mutant("activations.py", "if len(known) < len(places):", "if not known:", KEPT),
    Mutant("activations.py", "for key in sorted(rows):", "for key in rows:", KEPT),
    Mutant("activations.py", "        os.utime(path)", "        path.stat()", KEPT),
    Mutant("activations.py", "except (OSError, SafetensorError):", "except OSError:", KEPT),
    Mutant("activations.py", "if path not in mine:", "if True:", KEPT),
    Mutant("activations.py", "key=lambda one: one[1].st_mtime)", "key=lambda one: -one[1].st_mtime)", KEPT),
    Mutant("activations.py", "total + needed <= limit_bytes and needed", "needed", KEPT),
    Mutant("activations.py", " and needed <= (1 - SPARE) * free", "", KEPT),
    Mutant("activations.py", "if asked.some else None", "", KEPT),
    Mutant("tuning.py", "if not run.dropout:", "if True:", KEPT),
    Mutant("tuning.py", "[ground.examples, ground.held], pad", "[ground.examples], pad", KEPT),
    Mutant("model.py", "if call.bare and targets is None and self", "if call.bare and self", KEPT),
    Mutant("model.py", "return model.train(self.training)", "return model", KEPT),
    Mutant("tuning.py", "asking = model if kept is None else model.asking(kept.encode)", "pass", KEPT),
    # the last layer for the rows that are read
    Mutant(
        "backbones/last_layer.py", "written(empty, columns.masked_fill(again, length)", "written(empty, columns", FEW
    ),
    Mutant("backbones/last_layer.py", "_Leaving(columns, kwargs.get(NAME))", "_Leaving(columns, None)", FEW),
    Mutant("backbones/last_layer.py", "mask = told(module, query, key, mask)", "pass", FEW),
    Mutant("backbones/last_layer.py", "if kwargs.get(ROTARY) is not None:", "if False:", FEW),
    Mutant(
        "backbones/last_layer.py", "0 < 5 * columns.shape[1]", "columns.shape[1] and 99 < 5 * columns.shape[1]", FEW
    ),
    Mutant("backbones/attachment.py", "and visit.layer == self.top:", "and True:", FEW),
    Mutant("backbones/padding.py", "return call.layout.tokens if", "return call.layout.tokens[:, :1] if", FEW),
    Mutant("backbones/attachment.py", "and self.selects and last_layer", "and last_layer", FEW),
    Mutant(
        "backbones/decoder.py", "torch.cat([read(call), before], 1)", "torch.cat([read(call), before[:, :1]], 1)", FEW
    ),
    Mutant(
        "backbones/encoder_decoder.py", "columns = read(call) if targets is None else None", "columns = read(call)", FEW
    ),
    Mutant("readouts/classifier.py", '"last": last_column', '"last": first_column', FEW),
    Mutant("stacking.py", "stack(known) if len(known) == len(each) else None", "stack(known) if known else None", FEW),
    # frozen linear layers on a CPU
    Mutant("backbones/cpu_linear.py", "ctx.owner, turned=True)", "ctx.owner, turned=False)", MULTIPLIED),
    Mutant("backbones/cpu_linear.py", "self.weight.t(), self.bias, self)", "self.weight, self.bias, self)", MULTIPLIED),
    Mutant("backbones/cpu_linear.py", "if trained or input", "if input", MULTIPLIED),
    Mutant("backbones/cpu_linear.py", 'casting = torch.is_autocast_enabled("cpu")', "casting = False", MULTIPLIED),
    Mutant("backbones/cpu_linear.py", "turned=False), bias)\n\n\nclass", "turned=False), None)\n\n\nclass", MULTIPLIED),
    Mutant("backbones/cpu_linear.py", "if known is None or known.mark != mark:", "if known is None:", MULTIPLIED),
    Mutant("backbones/cpu_linear.py", "+ size > ROOM:", "+ size > 99 * ROOM:", MULTIPLIED),
    Mutant("backbones/cpu_linear.py", "back.numel() > FEW", "back.numel() < FEW", MULTIPLIED),
    Mutant(
        "backbones/attachment.py",
        "call.layout.tokens.where(call.entry.mask, given",
        "call.layout.tokens.where(call.entry.mask | True, given",
        MIXED,
    ),
    # rows under different prompts in one pass
    Mutant("mixing.py", "(call.until, layer), [])", "(None, None), [])", MIXED),
    Mutant("mixing.py", "shares[n].rows * how.sequences", "shares[n].rows", MIXED),
    Mutant("mixing.py", "is not shares[0].model.backbone:", "is None:", MIXED),
    Mutant(
        "mixing.py",
        "slice(first, first + share.rows), first + share.rows",
        "slice(first, first + share.rows), first",
        MIXED,
    ),
    Mutant("mixing.py", "out.targets[rows, :choices, :steps]", "out.targets[rows]", MIXED),
    Mutant("mixing.py", "out.hidden[rows, : share.x.ids.shape[1]]", "out.hidden[rows]", MIXED),
    Mutant("stacking.py", ", fed=max(t.ids.shape[1] * (t.ids.shape[2] - 1) for t in given))", ")", MIXED),
    Mutant(
        "stacking.py",
        "max(t.ids.shape[1] * (t.ids.shape[2] - 1) for t in given)",
        "min(t.ids.shape[1] * (t.ids.shape[2] - 1) for t in given)",
        MIXED,
    ),
    Mutant("mixing.py", "if layout.placed is not None:\n        return", "if False:\n        return", MIXED),
    Mutant(
        "mixing.py", "        if any(layout.placed is not None for layout in layouts)\n", "        if False\n", MIXED
    ),
    Mutant(
        "mixing.py",
        "keeps[known] = below([kv.keep for kv in own])",
        "keeps[known] = below([kv.keep | True for kv in own])",
        MIXED,
    ),
    Mutant(
        "mixing.py",
        "tuple(id(kv.keep) if index in c.keys_values else None",
        "tuple(1 if index in c.keys_values else 2",
        MIXED,
    ),
    Mutant("mixing.py", "some.keep.new_zeros(rows, length))", "some.keep.new_ones(rows, length))", MIXED),
    Mutant("stacking.py", "for size in reversed(missing)", "for size in missing", MIXED),
    Mutant("backbones/packing.py", "if targets.fed is None else targets.fed)", "if True else 0)", MIXED),
    Mutant(
        "backbones/packing.py", "None if layout.placed is None else at(F.pad", "None if True else at(F.pad", DECIDED
    ),
    Mutant("backbones/padding.py", "None if layout.placed is None else layout.placed[:, :length]", "None", DECIDED),
    Mutant("backbones/encoder_decoder.py", "number: expanded(keep, rows)", "number: keep.repeat(times, 1)", MIXED),
    # prompts as keys and values
    Mutant("backbones/step.py", "_product(weights[..., :prompt], ", "0 * _product(weights[..., :prompt], ", GENERATED),
    Mutant("backbones/step.py", "b (h g) 1 d -> b h g d", "b (g h) 1 d -> b h g d", GENERATED),
    Mutant("backbones/step.py", "~each, lowest", "each & False, lowest", GENERATED),
    Mutant("backbones/step.py", "h (b g) o -> b h g o", "h (g b) o -> b h g o", COMPILED),
    Mutant("backbones/step.py", 'rest.get("softcap") is None and rest.get("s_aux") is None', "True", GENERATED),
    Mutant("model.py", "not bool(one.keep.any())", "False", COMPILED),
    Mutant("model.py", "int(ends(ahead))", "0", COMPILED),
    Mutant("placements.py", "return self.head == 0 and", "return", COMPILED),
    Mutant("placements.py", " and self.before in (None, length)", "", COMPILED),
    Mutant("injections.py", "given.detach().to(dtype, copy=True, ", "given.detach().to(dtype, ", COMPILED),
    Mutant("backbones/decoder.py", "if self._goes_on else None", "", COMPILED),
    Mutant("backbones/decoder.py", "counted.where(call.layout.mask, 0)", "counted", COMPILED),
    Mutant(
        "backbones/decoder.py",
        "_before(call, (~layout.mask).sum(1))",
        "_before(call, layout.mask.sum(1) * 0)",
        COMPILED,
    ),
    Mutant("backbones/sight.py", " or any(keep is not keeps[0] for keep in keeps)", "", COMPILED),
    Mutant("backbones/sight.py", "len(keeps) < layers or ", "", COMPILED),
    Mutant("injections.py", "if 0 < self.start < length:", "if False:", BUILT),
    Mutant("backbones/padding.py", "if call.start is None else own + call.start", "", COMPILED),
    Mutant("backbones/padding.py", "told = positions is not None or call.start is not None", "told = False", COMPILED),
    Mutant("backbones/sight.py", "column + start[batch], key)", "column, key)", COMPILED),
    Mutant("backbones/sight.py", "keep[batch, key] & (", "(", COMPILED),
    Mutant("backbones/sight.py", " | (start[batch] == 0)", "", COMPILED),
    Mutant("backbones/sight.py", " and mask_function is causal_mask_function", "", COMPILED),
    Mutant("backbones/sight.py", "before.whole and mask_function is causal", "mask_function is causal", COMPILED),
    Mutant("backbones/sight.py", " and mask_function is bidirectional_mask_function", "", BLIND),
    Mutant("backbones/sight.py", '= rest["allow_is_bidirectional_skip"] = False', "= False", BLIND),
    Mutant("backbones/encoder.py", "with Sight(None, ahead):", "with Sight(None, None):", BLIND),
    Mutant("backbones/encoder.py", "call.blind is not None and self._goes_on", "self._goes_on", COMPILED),
    Mutant("backbones/encoder_decoder.py", "call.blind is not None and self._goes_on", "call.blind is not None", BLIND),
    Mutant("backbones/encoder_decoder.py", 'if a.part != "decoder"\n', 'if a.part == "encoder"\n', BLIND),
    Mutant("backbones/attention.py", 'rearrange(self.start, "b -> b 1")', "0 * self.start[:, None]", BLIND),
    Mutant("backbones/attention.py", '"h b q p -> b h q p") * there', '"h b q p -> b h q p")', BLIND),
    Mutant("backbones/blind.py", "seen = F.pad(seen, (mask.shape[3] - seen.shape[3], 0), value=True)", "pass", BLIND),
    Mutant("backbones/sight.py", ".tril(prompt)", "", COMPILED),
    Mutant("mixing.py", "n if call.start is None else call.start", "n", COMPILED),
    Mutant("bank.py", "tuned.backbone is not self.backbone:", "False:", BANKED),
    Mutant("sharing.py", "writing and writing.how", "bool(writing)", BANKED),
    Mutant("sharing.py", "(tuned.precision, writing", "(writing", BANKED),
    Mutant("sharing.py", "len(self.example.ids) + soft", "len(self.example.ids)", BANKED),
    Mutant("bank.py", "islice(remaining, WINDOW)", "remaining", BANKED),
    Mutant("bank.py", "loss * count for loss, count in losses)", "loss for loss, count in losses)", BANKED),
    Mutant(
        "data/collate.py",
        "(len(found[-1]) + 1) * lengths",
        "len(found[-1]) * lengths",
        ("tests/unit/data/test_collate.py",),
    ),
    Mutant("data/mixture.py", "size ** (1 / temperature)", "size**temperature", BLENDED),
    Mutant("data/mixture.py", "draw.sample(range(rows), rows)", "draw.choices(range(rows), k=rows)", BLENDED),
    Mutant("data/mixture.py", "{self.seed}/{number}", "{self.seed}", BLENDED),
    Mutant("data/mixture.py", "task=task, width=width)", "width=width)", BLENDED),
    Mutant("ensembles.py", "(votes[c], means[c], -c)", "(votes[c], -c, means[c])", TOGETHER),
    Mutant("ensembles.py", "(votes[c], means[c], -c)", "(votes[c], means[c], c)", TOGETHER),
    Mutant("ensembles.py", "(own[c], -c)", "(own[c], c)", TOGETHER),
    Mutant("ensembles.py", "math.log(max(p, sys.float_info.min))", "p", TOGETHER),
    # attention with gradients in bfloat16 on a CPU
    Mutant("backbones/cpu_attention.py", "mask.repeat(1, 1, each, 1)", "mask.repeat_interleave(each, 2)", ON_A_CPU),
    Mutant("backbones/cpu_attention.py", "b (h g) q k -> b h (g q) k", "b (g h) q k -> b h (g q) k", ON_A_CPU),
    Mutant("backbones/cpu_attention.py", "moved.mul_(ctx.scale)", "moved.mul_(1.0)", ON_A_CPU),
    Mutant("backbones/cpu_attention.py", "scores.mul_(scale)\n", "pass\n", ON_A_CPU),
    Mutant("backbones/cpu_attention.py", "alpha=scale, out", "alpha=1.0, out", ON_A_CPU),
    Mutant(
        "backbones/cpu_attention.py",
        "None) if kept is None else kept[",
        "None) if kept is None else kept[:1][",
        ON_A_CPU,
    ),
    Mutant(
        "backbones/cpu_attention.py", "self.scores[:n], self.weights[:n]", "self.scores[:n], self.scores[:n]", ON_A_CPU
    ),
    # norms
    Mutant("backbones/norm.py", "back.sub_(unit.mul_(along))", "back", NORMED),
    Mutant("backbones/norm.py", "torch.autocast(a.device.type, enabled=False)", "torch.no_grad()", NORMED),
    Mutant("backbones/norm.py", "parameters) != 1:", "parameters) < 0:", NORMED),
    Mutant("backbones/norm.py", "(given * ctx.weight)", "given", NORMED),
    Mutant("backbones/norm.py", "same[kind] = _is_so(module)", "same[kind] = True", NORMED),
    Mutant("backbones/norm.py", "if not _looks_so(module):", "if kind not in same and not _looks_so(module):", NORMED),
    Mutant("backbones/norm.py", " and not weight.requires_grad", "", NORMED),
    Mutant("backbones/norm.py", "wide * inverse if wide is x else ", "", NORMED),
    # the store and the engine
    Mutant("store.py", "known.stamp == self._found(name)", "known is not None", STORED),
    Mutant("store.py", "_Version(stamp, before, str(error))", "_Version(stamp, None, str(error))", STORED),
    Mutant("folders.py", "            if replaces:\n                old.rename(place)\n", "", STORED),
    Mutant("folders.py", "hidden.name.endswith(OLD) and not os.path.lexists(place)", "False", STORED),
    Mutant("store.py", "popitem(last=False)", "popitem(last=True)", STORED),
    Mutant("serve/ray.py", "if version != tuned.manifest.digest", "if False", ("tests/unit/serve/test_replicas.py",)),
    Mutant("store.py", "alive or self._opened", "self._opened", STORED),
    Mutant("store.py", "_bytes(tuned, known)", "_bytes(tuned)", STORED),
    Mutant("store.py", "is not None and name != BASE", "is not None", STORED),
    Mutant("store.py", "self._opened(name, made, wholly=True)", "pass", STORED),
    Mutant("store.py", "sorted(set(given) - set(FILES))", "[]", STORED),
    Mutant("backbones/draft.py", "F.pad(draft.mask, (columns, 0))", "F.pad(draft.mask, (0, columns))", SERVED),
    Mutant("backbones/draft.py", ".int().argmax(1).min())", ".int().argmax(1).max())", SERVED),
    Mutant("backbones/draft.py", "_rows(kv.value, index)", "_rows(kv.key, index)", SERVED),
    Mutant("backbones/decoder.py", "positions[:, -1] + 1, riding", "positions[:, -1], riding", SERVED),
    Mutant("backbones/picking.py", "generator=pens[n].draws", "generator=pens[numbers[0]].draws", SERVED),
    Mutant("backbones/picking.py", "if sampling.top_p < 1.0:", "if False:", SERVED),
    Mutant("mixing.py", "stacked([draft.call for draft in drafts])", "drafts[0].call", SERVED),
    Mutant("serve/desk.py", "0 if self._backbone.evens else", "0 if True else", SERVED),
    Mutant("serve/desk.py", "if not text.job.gone]", "]", SERVED),
    Mutant("serve/desk.py", "[text.ids[-1] for text in part.texts]", "[text.ids[0] for text in part.texts]", SERVED),
    Mutant(
        "serve/apart.py", "(items[: len(items) // 2], items[len(items) // 2 :])", "(items[: len(items) // 2],)", SERVED
    ),
    Mutant("serve/memory.py", "self._due = self._clock() + EVERY_S\n\n\n@cache", "pass\n\n\n@cache", GIVEN_BACK),
    Mutant("serve/worker.py", "return [said[id(job.asked)] for job in jobs]", "return list(said.values())", SERVED),
    Mutant("serve/engine.py", "batch.mask & (batch.ids >= 0)", "batch.mask | True", SERVED),
    Mutant("serve/queues.py", "rows > 1 and rows * longest", "rows > 1 and longest", QUEUED),
    Mutant("serve/queues.py", "count > 1 and count * widest", "count > 1 and widest", QUEUED),
    Mutant("serve/queues.py", "first.sampling is None and", "", QUEUED),
    Mutant("serve/queues.py", "if not job.gone)\n            self._texts", ")\n            self._texts", QUEUED),
    Mutant("serve/waiting.py", "order[first : first + 1], lengths[0]", "order[-1:], lengths[0]", QUEUED),
    Mutant("serve/waiting.py", "(count + 1) * longest <= tokens", "True", QUEUED),
    Mutant("serve/waiting.py", "more * (alone + count * longest)", "more * (count * longest)", QUEUED),
    Mutant("serve/spelling.py", "(0 if last else self._open())", "0", SPELLED),
    Mutant("serve/spelling.py", "default=1) + 1)", "default=1) + 2)", SPELLED),
    Mutant("serve/spelling.py", "sure = min(found)", "sure = max(found)", SPELLED),
    # what speaks HTTP
    Mutant("serve/keys.py", "hmac.compare_digest(known, given)", "known[:1] <= given[:1]", KEYED),
    Mutant("serve/keys.py", "self._asking >= key.at_once", "self._asking > key.at_once", KEYED),
    Mutant("serve/keys.py", "(now - self._seen) * limit / 60", "(now - self._seen) * limit / 600", KEYED),
    Mutant("serve/process.py", "host not in LOOPBACK and not allowed", "not allowed", KEYED),
    Mutant("serve/gate.py", "if len(body) > most or", "if", GATED),
    Mutant("serve/gate.py", "told.isdigit() and int(told) > most", "False", GATED),
    Mutant("serve/gate.py", "await ended((work, watching))", "await ended((watching,))", GATED),
    Mutant(
        "serve/streams.py", "        await asyncio.wait(tasks)\n", "        await asyncio.gather(*tasks)\n", STREAMED
    ),
    Mutant(
        "serve/streams.py",
        "asyncio.wait([asyncio.create_task(_closed(streams, list(waiting)))])",
        "_closed(streams, waiting)",
        STREAMED,
    ),
    Mutant("serve/chats.py", "sanitize_control_tokens=True", "sanitize_control_tokens=False", ASKED),
    Mutant("serve/gate.py", "name not in self.hosts", "False", GATED),
    Mutant("serve/gate.py", "if reply.done:  #", "if False:  #", ASKED),
    Mutant("serve/process.py", "self.gate.open == 0 or", "True or", GATED),
    Mutant("serve/process.py", "connection.transport.close()", "pass", GATED),
    Mutant("serve/faults.py", "max(1, math.ceil(retry_after_s))", "int(retry_after_s)", ASKED),
    Mutant("serve/service.py", "(name == BASE or name in self.store)", "name in self.store", ASKED),
    Mutant("serve/service.py", "if caller.may(name) and (", "if (", ASKED),
    Mutant(
        "serve/service.py",
        "        with caller.asking(1):\n            known",
        "        if True:\n            known",
        ASKED,
    ),
    Mutant("serve/service.py", "            self.engine.admit(len(rows))\n", "", ASKED),
    Mutant("serve/process.py", "(connection, connection.cycle)", "(connection, None)", GATED),
    Mutant("serve/process.py", "if self.guard.open and not self.anyone else", "if self.anyone else", FRONT),
    Mutant("cli/serving.py", "dtype=dtype_of(precision, where)", 'dtype=dtype_of("fp32", where)', FRONT),
    Mutant("serve/keys.py", "in UNANSWERED and", "in () and", KEYED),
    Mutant("serve/keys.py", "- (self.clock() - began) * (key.rows_per_minute or 0) / 60", "", KEYED),
    Mutant("serve/gate.py", "own.upload_bytes, UPLOAD", "own.upload_bytes, BODY", ASKED),
    Mutant("serve/worker.py", "(*self._turn, *self.queues.abandoned())", "self.queues.abandoned()", SERVED),
    Mutant("serve/worker.py", "            self._desk.clear(stopped)\n", "", SERVED),
    Mutant("serve/queues.py", "len(self) + rows >", "len(self) + 1 >", QUEUED),
    Mutant(
        "errors.py", "min(bisect(names, name) - COMPARED // 2, len(names) - COMPARED)", "len(names) - COMPARED", NEAR
    ),
    Mutant("serve/service.py", "self.temperature < GREEDY", "self.temperature < 0", ASKED),
    Mutant("serve/service.py", "(self.seed + number +", "(self.seed +", ASKED),
    Mutant("serve/openai.py", "[*form.opening(), form.part(*first)]", "[form.part(*first)]", ASKED),
    Mutant("serve/openai.py", 'f"<{len(vector)}f"', 'f">{len(vector)}f"', ASKED),
    Mutant("serve/wire/requests.py", "value not in NEUTRAL[name]", "value in NEUTRAL[name]", ASKED),
    Mutant("serve/app.py", "allow_inf_nan=False", "allow_inf_nan=True", ASKED),
    Mutant("serve/app.py", "if (folder is None) == (not files):", "if False:", ASKED),
    # tasks with a name, and their official scores
    Mutant("metrics.py", "right.get(group, True) and g == p", "g == p", SCORED),
    Mutant("metrics.py", "one <= other or other <= one", "one <= other", SCORED),
    Mutant("metrics.py", """("'" in predicted) == ("'" in referent) and""", "", SCORED),
    Mutant("metrics.py", 'names = sorted(set(true) - {"Other"})', "names = sorted(set(true))", SCORED),
    Mutant("metrics.py", "zip_longest(*rows)", "zip(*rows)", SCORED),
    Mutant("tasks/superglue.py", 'span["end"] + 1', 'span["end"]', WORDED),
    Mutant("tasks/superglue.py", '.replace("<br>", " ")', '.replace("<br>", "")', WORDED),
    Mutant("tasks/superglue.py", "sorted(answers)", "list(answers)[::-1]", WORDED),
    Mutant("tasks/superglue.py", "not teaching or own", "teaching or own", NAMED),
    Mutant("tasks/superglue.py", "true > best[row", "true < best[row", NAMED),
    Mutant("tasks/named.py", "value == -1", "value == -2", WORDED),
    Mutant("data/task.py", "    if classes:\n        return blank\n", "", NAMED),
    Mutant("kinds/kind.py", "{**found, **wording.score(", "{**wording.score(", NAMED),
    # several tasks, one prompt
    Mutant("readouts/by_task.py", "loss(own, part) * len(part.ids)", "loss(own, part)", TOGETHER_TAUGHT),
    Mutant("readouts/by_task.py", "self.readouts[int(batch.task[0])]", "self.readouts[0]", TOGETHER_TAUGHT),
    Mutant("readouts/by_task.py", "Output(out.hidden[rows], texts", "Output(out.hidden, texts", TOGETHER_TAUGHT),
    Mutant("choices.py", "self.bias[task : task + 1].detach()", "self.bias[:1].detach()", TOGETHER_TAUGHT),
    Mutant("choices.py", "self.bias[x.task] if", "self.bias[x.task * 0] if", TOGETHER_TAUGHT),
    Mutant("multitask/tuning.py", "alone, read = _alone(model, number)", "alone, read = model", SEVERAL),
    Mutant("multitask/tuning.py", 'settings["tasks"] = plan.conditioned', "pass", SEVERAL),
    Mutant("multitask/tuning.py", "temperature=plan.temperature, seed=seed", "seed=seed", SEVERAL),
    Mutant("multitask/tuning.py", '        "temperature": plan.temperature,\n', "", SEVERAL),
    Mutant("multitask/tuning.py", "places.check(folder / name, overwrite, run=folder)", "pass", SEVERAL),
    Mutant("train/evaluation.py", "found.setdefault(int(batch.task[0]), [])", "found.setdefault(0, [])", ALARMED),
    Mutant(
        "bench/records.py",
        'told = {k: v for k, v in record.items() if k not in ("tasks", "reports")}',
        "told = record",
        STUDIED,
    ),
    Mutant("bench/jobs.py", '"temperature": plan.mixtures[task].temperature', '"temperature": 1', STUDIED),
    Mutant("bench/loaded.py", "check(backbone)", "pass", ("tests/unit/bench/test_command.py",)),
    Mutant("bench/run.py", 'told["cost"][name] * len(ground.train) / rows', 'told["cost"][name]', STUDIED),
    Mutant("bench/run.py", "learned.parts.get(task, learned)", "next(iter(learned.parts.values()), learned)", STUDIED),
    Mutant("bench/study.py", 'len(plan.members(str(job.about["task"])))', "1", STUDIED),
    Mutant("backbones/head.py", "apart = states.stride(0) != states[0].numel()", "apart = False", GENERATED),
    # reports
    Mutant("report/tables.py", "cell.value == best", "cell.value != best", REPORTED),
    Mutant("report/tables.py", "{escape(middle(cell.line))}", "{middle(cell.line)[:3]}", REPORTED),
    Mutant("report/trace.py", "enumerate(records, 1)", "enumerate(records[::-1], 1)", REPORTED),
    Mutant("report/tables.py", "<td>{escape(cell)}</td>", "<td>{cell}</td>", REPORTED),
    Mutant("report/series.py", "for step in steps]", "for step in steps[::-1]]", REPORTED),
    Mutant("report/series.py", "self.counts.sum(0)[:-1]", "self.counts.sum(1)", REPORTED),
    Mutant("report/series.py", "set.intersection(*", "set.union(*", REPORTED),
    Mutant("report/words.py", "d.interval[0] > 0 or d.interval[1] < 0", "d.interval[0] < 0 < d.interval[1]", REPORTED),
    Mutant("report/page.py", "for part in parts if part.body", "for part in parts", REPORTED),
    Mutant("markup.py", "hashlib.sha256(script.encode())", "hashlib.sha256(script.strip().encode())", REPORTED),
    Mutant("bench/tables.py", '"\\\\": r"\\textbackslash{}", ', "", REPORTED),
    # rows in a file are the rows
    Mutant("data/kept.py", "chain(held, chain.from_iterable(remaining))", "chain.from_iterable(remaining)", MAPPED),
    Mutant("data/kept.py", "if tokens > HELD:", "if tokens < 0:", MAPPED),
    Mutant("data/kept.py", "for row in range(len(self))[place]]", "for row in range(len(self))[: place.stop]]", MAPPED),
    Mutant(
        "kinds/classification.py",
        "values = {-1: None, **dict(enumerate(wording.task.values))}",
        "values = {-1: wording.task.values[-1], **dict(enumerate(wording.task.values))}",
        TOLD,
    ),
    # studies: nothing lost, nothing twice, nothing chosen by what reports
    Mutant("bench/store.py", "if state.is_finished():", "if False:", STUDIED),
    Mutant("bench/store.py", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", STUDIED),
    Mutant("bench/store.py", 'if o["chosen"] != chosen]', 'if o["chosen"] < 0]', STUDIED),
    Mutant("bench/run.py", "not all(trial.finished for trial in trials)", "not trials[0].finished", STUDIED),
    Mutant("bench/outcomes.py", "return trial.score or 0.0, -loss", "return -(trial.score or 0.0), -loss", STUDIED),
    Mutant("bench/grounds.py", "for part in drawn[size:]", "for part in drawn[:size]", STUDIED),
    Mutant("bench/grounds.py", 'random.Random(f"shots/{seed}")', 'random.Random("shots")', STUDIED),
    Mutant("bench/jobs.py", '"budget": plan.budget_of(task, regime, backbone).recipe()', '"budget": 0', STUDIED),
    Mutant("bench/plan.py", "for settings in ({}, *found)]", "for settings in found]", PLANNED),
    Mutant("bench/plan.py", "return [own | settings for", "return [settings for", PLANNED),
    Mutant("bench/plan.py", "if name not in self.settings(method)}", "}", PLANNED),
    Mutant("bench/jobs.py", '"contender": plan.contender(method).name,', "", PLANNED),
    Mutant("bench/plan.py", "learnt.budget, self.regimes[regime].budget):", "learnt.budget):", PLANNED),
    Mutant("bench/plan.py", "self.budgets.get(backbone, {}), learnt.budget,", "learnt.budget,", PLANNED),
    Mutant("bench/plan.py", 'or where == "budgets.") and', "or False) and", PLANNED),
    Mutant(
        "bench/prompts.py",
        "progress=progress, overwrite=True)\n        return",
        "progress=progress)\n        return",
        STUDIED,
    ),
    Mutant("bench/plan.py", 'if "epochs" in own else own', "if False else own", PLANNED),
    Mutant("bench/plan.py", "if method == rival:", "if False:", PLANNED),
    Mutant("bench/sections.py", 'exclude={"epochs"} if self.steps else set()', "exclude=set()", PLANNED),
    Mutant("bench/sections.py", "not 0 < self.selection < 1", "not 0 < self.selection", PLANNED),
    Mutant("bench/run.py", "placed(value, **names)", "value", STUDIED),
    Mutant("bench/prompts.py", "if k not in STARTS}", "if True}", STUDIED),
    Mutant("bench/hurry.py", "times += [] if math.isnan(before)", "times += [] if times", RECOMMENDED),
    Mutant("bench/hurry.py", "self._took(self.scorings)", "self._took(self.steps)", RECOMMENDED),
    Mutant("bench/advice.py", 'e.spoken if e.name == "prompt" else', "", RECOMMENDED),
    Mutant("bench/advice.py", "if p < BETTER and best", "if best", RECOMMENDED),
    Mutant("bench/statistics.py", "(np.sqrt(n / (n - 1)) if n > 1 else 1.0)", "0.0", RESAMPLED),
    Mutant("bench/statistics.py", "total**2 / uncertain", "1e9", RESAMPLED),
    Mutant("bench/statistics.py", "* (len(values) - rank)", "* len(values)", RESAMPLED),
    Mutant("bench/statistics.py", "least = max(least, min(", "least = max(0.0, min(", RESAMPLED),
    Mutant("bench/compare.py", "worth([own[seed] for seed in both], task)", "worth([*own.values()])", HELD_AGAINST),
    Mutant("bench/compare.py", "known is None or known.drawn", "False", HELD_AGAINST),
    Mutant("bench/compare.py", "rivals.get(method, against)", "against", HELD_AGAINST),
    Mutant("bench/statistics.py", "if len(gains) < 6:", "if len(gains) < 2:", RESAMPLED),
    Mutant("bench/doubts.py", '(record["chosen_by"], record["metric"])', '("accuracy",)', HELD_AGAINST),
    Mutant("bench/doubts.py", "last > best * (1 + RISEN)", "last > best", HELD_AGAINST),
    Mutant("bench/doubts.py", "share - most <= error", "share - most < 0", HELD_AGAINST),
    Mutant("bench/baselines/adapted.py", "if list(inner.parameters()):", "if False:", RIVALS),
    Mutant("bench/baselines/adapters.py", "return states + moved", "return moved", RIVALS),
    Mutant("bench/baselines/asked.py", "plain(rows)) / np.maximum(", "plain(rows)) * np.maximum(", RIVALS),
    Mutant("bench/baselines/bag_of_words.py", 'f"{number} {word}"', 'f"0 {word}"', RIVALS),
    Mutant("backbones/cpu_linear.py", " or (bias is not None and bias.requires_grad)", "", RIVALS),
    # studies of any kind of task
    Mutant("bench/statistics.py", "weight * whole - (weight - 1) * others", "others", RESAMPLED),
    Mutant("bench/statistics.py", "weight = count / sizes", "weight = len(units) / sizes", RESAMPLED),
    Mutant("bench/statistics.py", "values - values.mean() + whole]", "values]", RESAMPLED),
    Mutant("bench/grounds.py", "most / len(rows), run.unit)[1]", "most / len(rows))[1]", ANY_KIND),
    Mutant("bench/grounds.py", "if found and len(found)", "if len(found)", ANY_KIND),
    Mutant("bench/grounds.py", "enumerate(units(rows, run.unit))", "enumerate(units(rows, None))", ANY_KIND),
    Mutant(
        "bench/grounds.py",
        "rows, [self.output(a) for a in answers]",
        "rows, [{'label': a.label} for a in answers]",
        ANY_KIND,
    ),
    Mutant("bench/grounds.py", '= {"Task": parts}', '= {"Task": [*parts, *parts]}', ANY_KIND),
    Mutant("bench/grounds.py", "for own in units(rows, unit)]", "for own in units(rows, None)]", ANY_KIND),
    Mutant("bench/grounds.py", "if spare >= len(classes):", "if True:", ANY_KIND),
    Mutant("bench/run.py", "own if own in learned.scores else first.metric", "own", ANY_KIND),
    Mutant("bench/run.py", " or ground.run().unit is not None", "", ANY_KIND),
    Mutant("bench/grounds.py", "else renamed(row) for row", "else row for row", ANY_KIND),
    Mutant(
        "bench/baselines/answers.py", "return [found[i] for i in range(len(rows))]", "return [*found.values()]", RIVALS
    ),
    Mutant(
        "bench/baselines/adapted.py",
        "readout.plain, readout.inner, wording, held",
        "model, readout, wording, held",
        ANY_KIND,
    ),
    Mutant("bench/jobs.py", "for own in methods if plan.fits(own, task)", "for own in methods", ANY_KIND),
    Mutant("material.py", "parts = units(rows, unit)", "parts = units(rows, None)", ANY_KIND),
    Mutant("bench/own_rows.py", '" ".join(text.lower().split())', "text", RECOMMENDED),
    Mutant("bench/own_rows.py", "task.said(row)[1:] if", "task.said(row) if", RECOMMENDED),
    Mutant("bench/result.py", "contributions(rows, answers, texts)", "contributions(rows, answers)", RECOMMENDED),
    Mutant("kinds/answering.py", "known.most_common(1)[0][0]", '""', ("tests/unit/bench/test_any_kind.py",)),
    Mutant("bench/own_rows.py", "if fold < estimate]", "if fold <= estimate]", RECOMMENDED),
    Mutant("bench/halving.py", "-scores[c][0], scores[c][1]", "-scores[c][0], -scores[c][1]", RECOMMENDED),
    Mutant("bench/advice.py", "learned = above < LEVEL and", "learned = above <= 1.0 and", RECOMMENDED),
)


def _test(source: str, tests: Sequence[str], told: Path) -> None:
    """Run the tests against the package in `source`, in a process of their own; what they say goes into `told`."""
    with told.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = source
    sys.path.insert(0, source)
    early = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # plugins that are warm already
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *early, "--thorough", *tests]))


def passes(source: Path, tests: Sequence[str]) -> bool:
    """Whether the tests pass against the package in `source`; those that do not end do not pass."""
    with tempfile.NamedTemporaryFile() as told:
        run = WARM.Process(target=_test, args=(str(source), tests, Path(told.name)))
        run.start()
        run.join(HANGS_S)
        if run.exitcode is None:
            run.kill()
            return False
        if run.exitcode not in (0, 1, 2):  # 2: the mutant broke the import of a test
            raise RuntimeError(f"{source}: code {run.exitcode}\n{Path(told.name).read_text(encoding='utf-8')}")
        return run.exitcode == 0


def survives(mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        file = Path(folder) / PACKAGE / mutant.file
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        return passes(source, mutant.tests)


def main(pattern: str = "") -> int:
    chosen = [m for m in MUTANTS if pattern in m.file or pattern in m.old]
    stale = [m for m in chosen if (ROOT / PACKAGE / m.file).read_text(encoding="utf-8").count(m.old) != 1]
    for m in stale:
        print(f"stale     {m.file}: {m.old!r} is not there exactly once")
    if stale:
        return 1
    begun = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not passes(ROOT / "src", sorted({t for m in chosen for t in m.tests})):
        print("The tests fail without any mutant; mend that first.")
        return 1
    with ThreadPoolExecutor(max_workers=2) as pool:
        alive = []
        for m, survived in zip(chosen, pool.map(survives, chosen), strict=True):
            print(f"{'SURVIVED' if survived else 'killed'}  {m.file}: {m.old.strip()!r}", flush=True)
            alive += [m] * survived
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants killed in {time.monotonic() - begun:.0f} s")
    return 1 if alive else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:2]))
