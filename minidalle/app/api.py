"""The page's HTTP API: what it does, for programs.

`generate`, `encode`, `decode` and `models` take and give what JSON can hold; pictures are data
URLs, PNGs with their metadata inside. With Gradio's client for Python:

    client = gradio_client.Client("http://127.0.0.1:7860")
    answer = client.predict("red apple, twemoji style", n=1, seed=7, api_name="/generate")

and with any other in two steps: POST {"prompt": "red apple"} to /gradio_api/call/v2/generate, then
GET the same address with /<event_id>, which the first answer names, for server-sent events.
Requests wait in the same line as the people at the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from minidalle.app.html import data_url
from minidalle.app.limits import check_tokens, read_upload
from minidalle.app.studio import Drawn, Studio


def endpoints(studio: Studio) -> dict[str, Callable]:
    """The functions of the API, by name."""

    def generate(
        prompt: str,
        n: int = 1,
        seed: int = 0,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        condition_scale: float | None = None,
        rerank: bool = False,
        kept: list[int] | None = None,
        model: str | None = None,
    ) -> Iterator[dict]:
        """Draw n pictures, as `MiniDalle.generate` does.

        kept: image tokens that every picture begins with. Answers while drawing have `step`; the
        last one has the pictures, their tokens, and all that is needed to draw them again.
        """
        knobs = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        knobs["condition_scale"] = condition_scale
        if rerank:
            studio.model(model).scorer()  # that there is none is said before drawing
        how = {"kept_tokens": kept} if kept else {}
        for drawn in studio.draw(prompt, n, seed, kept=kept, how=how, model=model, **knobs):
            if drawn.finished:
                yield answer(studio.rerank(drawn) if rerank else drawn)
            else:
                yield {"step": drawn.result.step, "length": drawn.result.length}

    def encode(picture: str, model: str | None = None) -> list[int]:
        """The image tokens of a picture, given as a data URL: its middle square is taken."""
        return studio.model(model).encode(read_upload(picture)).tolist()

    def decode(tokens: list[int], model: str | None = None) -> str:
        """The picture of image tokens, as a data URL."""
        pipeline = studio.model(model)
        config = pipeline.vqgan.config
        ids = check_tokens(tokens, config.image_length, config.n_embed, "the tokens")
        return data_url(pipeline.decode(torch.tensor(ids, dtype=torch.long)))

    def models() -> list[str]:
        """The names of the loaded checkpoints; the first is the default."""
        return studio.names

    return {function.__name__: function for function in (generate, encode, decode, models)}


def answer(drawn: Drawn) -> dict[str, Any]:
    """Finished pictures with everything that is known of them."""
    result = drawn.result
    return {
        **drawn.metadata(),
        "step": result.step,
        "length": result.length,
        "tokens": result.tokens.tolist(),
        "images": [data_url(image, drawn.metadata(i)) for i, image in enumerate(result.images)],
    }
