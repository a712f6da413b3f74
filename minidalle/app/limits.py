"""What the web page refuses, so that one person cannot take the machine from the others.

Numbers that come from a browser are checked here, once for the page and for its HTTP API; each
refusal says what was found and what is allowed. `Gate` stands before the server and turns away
requests that are too large before they are read.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image

from minidalle.pictures import identify, to_rgb

MAX_PROMPT = 500  # characters; a model reads 32 or 64 tokens of them
MAX_PICTURES = 16  # drawn at once
MAX_UPLOAD = 10 * 2**20  # bytes of a picture file
MAX_BODY = MAX_UPLOAD * 4 // 3 + 2**20  # bytes of a request: the picture as base64, and the rest
MAX_WAITING = 32  # requests in the line
MAX_EXACT = 2**53 - 1  # the largest whole number that a browser has exactly
# Gradio's own addresses by which files come in and go out, and other machines' pages are fetched.
CLOSED = ("upload", "process_recording", "file=", "file/", "proxy=")


def check_prompt(prompt: Any) -> str:
    """The prompt; ValueError where it is no text or too long."""
    if not isinstance(prompt, str):
        raise ValueError(f"the prompt is {type(prompt).__name__}; it must be a text")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(
            f"the prompt has {len(prompt):,} characters; this page takes at most {MAX_PROMPT:,}"
        )
    return prompt


def check_count(n: Any) -> int:
    """How many pictures; ValueError where it is not 1 to MAX_PICTURES."""
    n = whole(n, "the number of pictures")
    if not 1 <= n <= MAX_PICTURES:
        raise ValueError(f"{n} pictures were asked for; this page draws 1 to {MAX_PICTURES}")
    return n


def check_seed(seed: Any) -> int:
    """The first seed; ValueError where it is negative or a browser could not give it back."""
    seed = whole(seed, "the seed")
    if not 0 <= seed <= MAX_EXACT - MAX_PICTURES:
        raise ValueError(f"the seed is {seed}; it must be from 0 to {MAX_EXACT - MAX_PICTURES:,}")
    return seed


def check_tokens(tokens: Any, length: int, codes: int, what: str) -> list[int]:
    """At most `length` image tokens; ValueError where one is not 0 to codes - 1."""
    if not isinstance(tokens, Sequence) or isinstance(tokens, str) or len(tokens) > length:
        raise ValueError(f"{what}: expected a list of at most {length} image tokens")
    numbers = [whole(token, what) for token in tokens]
    if numbers and not 0 <= min(numbers) <= max(numbers) < codes:
        raise ValueError(f"{what}: an image token is from 0 to {codes - 1}")
    return numbers


def whole(value: Any, name: str) -> int:
    """A whole number that may have come as 7.0; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    return int(value)


def read_upload(url: Any) -> Image.Image:
    """The picture in a data URL ("data:image/png;base64,…"), 8-bit RGB.

    Raises ValueError for a file of more than MAX_UPLOAD bytes, and where there is no picture that
    can be read: see `minidalle.pictures.open_picture`.
    """
    if not isinstance(url, str) or not url.startswith("data:") or "," not in url:
        raise ValueError("expected a picture as a data URL, data:image/png;base64,…")
    text = url.partition(",")[2]
    if len(text) > (MAX_UPLOAD + 2) // 3 * 4:
        raise ValueError(too_large(len(text) * 3 // 4))
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the picture is no base64: {error}") from None
    return to_rgb(identify(io.BytesIO(data), "the file"), "the file")


def too_large(size: int) -> str:
    """What is said of a picture file of so many bytes."""
    most = MAX_UPLOAD / 2**20
    return f"the picture has {size / 2**20:.1f} MB; this page takes at most {most:.0f} MB"


class Gate:
    """ASGI middleware: requests of more than `limit` bytes get 413, those for files 404.

    The page sends pictures inside its requests and answers, so that nothing is ever put on the
    disk, and nothing on it or on another machine is ever given out.
    """

    def __init__(self, app: Any, limit: int = MAX_BODY):
        self.app, self.limit = app, limit

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"].partition("/gradio_api/")[2].startswith(CLOSED):
            return await refuse(send, 404, "this page takes no file uploads, and gives no files")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.limit:
            what = f"a request has at most {self.limit:,} bytes, a picture {MAX_UPLOAD:,}"
            return await refuse(send, 413, what)
        seen = 0

        async def counted() -> dict:  # a request need not say its length, or the truth about it
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return message if seen <= self.limit else {"type": "http.disconnect"}

        return await self.app(scope, counted, send)


async def refuse(send: Any, status: int, detail: str) -> None:
    """Answer a request with an error that says why."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
