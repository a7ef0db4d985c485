"""Which attention of a model: that of its encoder, of its decoder, or of the decoder to the encoder (`cross`)."""

from typing import Literal, get_args

Part = Literal["encoder", "decoder", "cross"]
PARTS: frozenset[Part] = frozenset(get_args(Part))
