"""The other side of `bridge.py`, in an environment with vLLM: requests from a folder, answers into it.

Nothing of this library is imported here; vLLM itself loads the connector.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from vllm import LLM, SamplingParams
from vllm.config import KVTransferConfig


def main() -> None:
    place = Path(sys.argv[1])
    told = json.loads((place / "requests.json").read_text())
    embeds = load_file(place / "embeds.safetensors")
    engine = LLM(
        model=str(place / "model"), dtype="float32", max_model_len=256, enable_prompt_embeds=True, enforce_eager=True,
        kv_cache_memory_bytes=256 << 20,
        kv_transfer_config=KVTransferConfig(
            kv_connector="PrefixConnector", kv_role="kv_consumer",
            kv_connector_module_path="promptuary.interop.connector",
            kv_connector_extra_config={"prefixes": str(place / "prefixes")},
        ),
    )  # fmt: skip
    prompts = [
        {**own, **({"prompt_embeds": embeds[str(i)]} if str(i) in embeds else {})}
        for i, own in enumerate(told["requests"])
    ]
    how = SamplingParams(temperature=0.0, max_tokens=told["steps"], logprobs=0, ignore_eos=True)
    said = [answered(out) for out in engine.generate(prompts, how)]
    again = [answered(out) for out in engine.generate(prompts, how)]  # now with what vLLM cached of the prefixes
    if [own["ids"] for own in again] != [own["ids"] for own in said]:
        raise SystemExit("The second pass, with cached prefixes, says something else than the first.")
    absent = {"prompt_token_ids": [0] * 9 + [5, 6, 7], "cache_salt": f"promptuary:9:{'0' * 32}"}
    out, beside = engine.generate([absent, prompts[0]], how)
    alone = answered(beside)["ids"] == said[0]["ids"]
    missing = (
        f"its finish reason is {out.outputs[0].finish_reason!r}, the others are {'' if alone else 'not '}as before"
    )
    names = ("torch", "transformers", "vllm")
    found = {"said": said, "missing": missing, "versions": {name: known(name) for name in names}}
    (place / "answers.json").write_text(json.dumps(found))


def answered(out: Any) -> dict[str, Any]:
    first = out.outputs[0]
    ids = list(first.token_ids)
    return {"ids": ids, "logprobs": [step[token].logprob for step, token in zip(first.logprobs, ids, strict=True)]}


def known(name: str) -> str:
    for package in (name, f"{name}-cpu"):
        try:
            return version(package)
        except ImportError:
            continue
    return "unknown"


if __name__ == "__main__":
    main()
