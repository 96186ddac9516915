"""A table is printed whole, however narrow the console is."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from rlhf_cli.tables import print_whole

CELLS = ("a-stage", "1234567890", "zero2-offload")


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("width", [10, 80])
def test_no_cell_is_cut(width: int, is_terminal: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("STAGE", "STEPS", "STRATEGY"):
        table.add_column(heading, no_wrap=True)
    table.add_row(*CELLS)
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=is_terminal, color_system=None)
    print_whole(console, table)
    assert text.getvalue().splitlines()[1].split() == list(CELLS)
    assert console.width == width
