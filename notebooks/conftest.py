"""How nbval runs the lessons: `make lessons`.

nbval gives up where a kernel sends nothing for 5 seconds after a cell's reply, which a busy machine
can take; there is no option for it. Warnings of new versions are no reason to fail, so what goes to
stderr is not compared.
"""

import os
import tempfile

from execute import ENVIRONMENT

OUTPUT_TIMEOUT = 60  # seconds


def pytest_configure(config):
    """Kernels inherit the environment; one folder for what IPython writes, gone at the end."""
    folder = tempfile.TemporaryDirectory(prefix="minidalle-lessons-")
    config.add_cleanup(folder.cleanup)
    os.environ.update(ENVIRONMENT, IPYTHONDIR=folder.name)
    os.environ.pop("MPLBACKEND", None)  # the kernel's own, which shows figures in the notebook


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    for item in items:
        item.output_timeout = OUTPUT_TIMEOUT
