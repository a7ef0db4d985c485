"""Everything that can compete, by name: promptuary's methods and the baselines."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from promptuary.bench.baselines import BASELINES
from promptuary.bench.contender import Contender
from promptuary.bench.prompts import Prompted
from promptuary.errors import SettingError, nearest
from promptuary.methods import METHODS

CONTENDERS: Mapping[str, Contender] = MappingProxyType(
    {method.name: Prompted(method) for method in METHODS.values()} | {own.name: own for own in BASELINES}
)


def contender(name: str, others: Iterable[str] = ()) -> Contender:
    """The contender of that name.

    Arguments:
        others: what else could have been meant.

    Raises:
        SettingError: for an unknown name, with the nearest known one.
    """
    if name not in CONTENDERS:
        raise SettingError(f"There is no method {name!r} to compare. {nearest(name, {*CONTENDERS, *others})}")
    return CONTENDERS[name]
