"""What the documentation's tests share: they need minidalle[docs], and `make docs` runs them."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="needs minidalle[docs]")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))


@pytest.fixture(scope="session")
def site() -> Path:
    """The built site."""
    folder = ROOT / "build" / "docs"
    if not (folder / "index.html").is_file():
        pytest.skip("needs the built site: make docs")
    return folder
