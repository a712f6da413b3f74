"""The command line's `app`: the web page."""

from __future__ import annotations

import ipaddress
import logging
import threading
from typing import Annotated

import typer

from minidalle.cli import loading, options

APP_EXAMPLES = options.examples(
    "app", "app runs/emoji runs/mine", "app dalle-mini/dalle-mini --device cuda --port 8000"
)


def app(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CHECKPOINT]...",
            help="Folders, or ids on the hub, to choose from [default: the embedded model].",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 = whoever reaches this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to listen at [default: a free one from 7860]."),
    ] = None,
    vqgan: options.Vqgan = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "auto",
) -> None:
    """Open the web page: a prompt, a button, pictures forming; and an HTTP API.

    Prints the page's address once it is ready; Ctrl-C ends it. Needs pip install minidalle[app].
    """
    try:
        from minidalle.app.page import launch
    except ImportError as error:
        raise ValueError(str(error)) from None
    models = [
        loading.load_model(name, vqgan, None, None, device, dtype) for name in checkpoints or [None]
    ]
    logging.getLogger("httpx").setLevel(logging.WARNING)  # which tells of requests to ourselves
    page = launch(models, host=host, port=port)
    options.say(page.local_url)
    if not is_local(host):
        options.say(f"whoever can reach {host} can use it: there is no password")
    try:
        threading.Event().wait()  # until Ctrl-C
    finally:
        page.close(verbose=False)


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
