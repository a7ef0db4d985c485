"""Every method of the library by name. To add one: write its function in a file of its own, name it here."""

from collections.abc import Mapping
from types import MappingProxyType

from promptuary.errors import SettingError, nearest
from promptuary.methods import (
    attempt,
    dp,
    idpg,
    ipl,
    ipt,
    lpt,
    mpt,
    p_tuning,
    prefix_tuning,
    prompt_tuning,
    residual,
    smop,
)
from promptuary.methods.method import Method

PAPERS = (prompt_tuning, prefix_tuning, p_tuning, residual, mpt, ipt, dp, idpg, ipl, smop, lpt, attempt)
METHODS: Mapping[str, Method] = MappingProxyType({m.name: m for paper in PAPERS for m in paper.METHODS})


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        SettingError: for an unknown name, with the nearest known one.
    """
    if name not in METHODS:
        raise SettingError(f"There is no method {name!r}. {nearest(name, METHODS)}")
    return METHODS[name]
