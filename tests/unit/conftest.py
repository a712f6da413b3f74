"""What the tests of the command line share."""

import sys
from typing import NamedTuple

import pytest

from minidalle import cli


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Call the command line in an empty folder; every test's mistakes must be one line."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments) -> Done:
        monkeypatch.setattr(sys, "argv", ["minidalle", *map(str, arguments)])
        try:
            code = cli.main() or 0
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        if code:
            assert err.startswith("minidalle: ") and err.count("\n") == 1, err
        return Done(code, out, err)

    return call
