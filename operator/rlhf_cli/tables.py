"""Tables are never cut: a figure that ends in … is worse than a line that the terminal wraps, and a pipe has no width at all."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_WIDEST = 10_000
"""rich measures within a width; no table of ours comes near this one."""


def print_whole(console: Console, table: Table) -> None:
    """Print the table as wide as its cells are, even where the console is narrower (a pipe counts as 80 columns)."""
    needed = Measurement.get(console, console.options.update(width=_WIDEST), table).maximum
    width = console.width
    console.width = max(width, needed)  # a width given to print() would be cut to that of the console
    try:
        console.print(table)
    finally:
        console.width = width
