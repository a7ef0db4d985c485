"""Whether the Hugging Face hub can be reached, asked in one place: its own client tries for half a minute."""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies


def reach() -> None:
    """Return where the hub may answer.

    Raises:
        OSError: without a network, or when the user said offline (HF_HUB_OFFLINE).
    """
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    if not getproxies():  # behind a proxy it is the proxy that looks names up
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, 443)
