"""The public names: all there, all documented, and nothing heavy is imported before it is needed."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import promptuary

MODULES = sorted(m.name for m in pkgutil.walk_packages(promptuary.__path__, "promptuary.") if "__main__" not in m.name)

# What runs inside of, or needs, a package that is no dependency of development.
GUESTS = {"promptuary.interop.connector": "vllm", "promptuary.serve.ray": "ray"}


def test_all_names_are_there_and_no_others() -> None:
    assert promptuary.__all__ == sorted(promptuary.__all__, key=lambda n: (not n.isupper(), n))
    assert all(getattr(promptuary, name) is not None for name in promptuary.__all__)
    assert set(dir(promptuary)) == {*promptuary.__all__, "__version__"}
    assert set(promptuary._HOMES) == set(promptuary.__all__)
    for name, home in promptuary._HOMES.items():
        assert getattr(importlib.import_module(home), name) is getattr(promptuary, name)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(promptuary.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == promptuary._HOMES


def test_another_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tunes'; it has METHODS"):
        _ = promptuary.tunes  # type: ignore[attr-defined]


def test_importing_the_library_imports_nothing_heavy() -> None:
    code = (
        "import sys, promptuary, promptuary.cli, promptuary.errors\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert promptuary.__version__\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_documented(name: str) -> None:
    if name in GUESTS:
        pytest.importorskip(GUESTS[name], reason=f"{name} needs {GUESTS[name]}")
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), name
    bare = [path for path, member in _public(module, name) if not (inspect.getdoc(member) or "").strip()]
    assert not bare


def _public(module: Any, name: str) -> Iterator[tuple[str, Any]]:
    for own, member in vars(module).items():
        if own.startswith("_") or getattr(member, "__module__", None) != name:
            continue
        if inspect.isclass(member) or inspect.isfunction(member):
            yield own, member


def test_the_version_is_that_of_the_package() -> None:
    project = Path(promptuary.__file__).parents[2] / "pyproject.toml"
    assert f'version = "{promptuary.__version__}"' in project.read_text(encoding="utf-8")
