"""Tables as Markdown has them, aligned to be read on a screen too."""

from collections.abc import Sequence


def print_markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table under its title; the first column to the left, numbers to the right."""
    table = [list(head), *map(list, rows)]
    widths = [max(3, *(len(row[column]) for row in table)) for column in range(len(head))]
    lines = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    print(f"\n{title}\n")
    for row in (table[0], lines, *table[1:]):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print(f"| {' | '.join(cells)} |", flush=True)
