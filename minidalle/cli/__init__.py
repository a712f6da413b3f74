"""The command line: `minidalle generate`, `reconstruct`, `info`, `convert`, `train` and so on.

What the user got wrong is said in one line on standard error, with exit code 2, before a model is
loaded wherever that can be. Standard output has the names of the files written, one a line, or with
`--json` one object; a progress bar is shown on a terminal only. Everything heavy is imported by the
command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

import minidalle
from minidalle.cli import checkpoints, draw, encode, evaluate, reconstruct, web
from minidalle.cli.bench import bench_app
from minidalle.cli.train import train_app

app = typer.Typer(
    help="DALL·E mini: a prompt becomes pictures.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(epilog=draw.GENERATE_EXAMPLES)(draw.generate)
app.command(epilog=reconstruct.RECONSTRUCT_EXAMPLES)(reconstruct.reconstruct)
app.command(epilog=checkpoints.INFO_EXAMPLES)(checkpoints.info)
app.command(epilog=checkpoints.CONVERT_EXAMPLES)(checkpoints.convert)
app.command(epilog=encode.ENCODE_EXAMPLES)(encode.encode)
app.command(epilog=evaluate.EVALUATE_EXAMPLES)(evaluate.evaluate)
app.command(epilog=web.APP_EXAMPLES)(web.app)
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"minidalle {minidalle.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line; the user's mistakes end in one line and exit code 2."""
    warnings.filterwarnings("ignore", module="PIL")  # a picture that is no good gets one line
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names that are not UTF-8
    try:
        if app(standalone_mode=False) == 130:  # what Typer returns after Ctrl-C
            complain("stopped", code=130)
    except TyperException as error:
        complain(error.format_message())
    except (ValueError, OSError, MemoryError, FloatingPointError, RecursionError) as error:
        complain(str(error))


def complain(message: str, code: int = 2) -> NoReturn:
    """Say in one line what was wrong, and end."""
    from minidalle.pictures import printable

    print(f"minidalle: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)
