"""A chat as the bare model hears it: in its tokenizer's own template, or where there is none, in lines."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from promptuary.errors import SettingError


class Chats:
    """Writes chats for a model: lines `role: text` with `assistant:` behind them, unless its tokenizer has a template.

    What the template writes are tokens; what looks like one of them in a message is text and never becomes one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)  # it reads special tokens, and the engine's must never

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> tuple[str] | list[int]:
        """The text that the model goes on with, or its token ids.

        Raises:
            SettingError: for messages that the template refuses.
        """
        if self._tokenizer.chat_template is None:
            return ("\n".join([*(f"{m['role']}: {m['content']}" for m in messages), "assistant:"]),)
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
            )
        except (TemplateError, ValueError) as error:
            raise SettingError(f"The model's chat template refuses these messages: {error}.") from error
        return ids
