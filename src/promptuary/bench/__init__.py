"""A fair comparison of methods: one plan, one loop, one search budget, a reporting split that is opened once."""

import importlib.util

from promptuary.errors import SettingError


def check_installed() -> None:
    """Say what to install where optuna, which keeps the trials, is missing.

    Raises:
        SettingError: with the command.
    """
    if importlib.util.find_spec("optuna") is None:
        raise SettingError("Comparing methods needs optuna. Write: pip install 'promptuary[study]'.")
