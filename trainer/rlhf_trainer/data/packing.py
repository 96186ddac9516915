"""Which rows share a sequence or a micro-batch: pure arithmetic on lengths, inside one window (rule D7).

Both functions return positions in `lengths`, every one exactly once. `collate.py` builds the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Bins of rows whose tokens add up to at most `max_length`: first-fit decreasing (Johnson 1973).

    [5, 3, 4, 2], 7 -> [[0, 3], [2, 1]]   the longest row first, each into the first bin with room

    Raises:
        ValueError: a row is longer than a bin. Prepare has dropped or cut such rows (rule D6).
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for row in _longest_first(lengths):
        if lengths[row] > max_length:
            raise ValueError(f"row {row} has {lengths[row]} tokens, a bin holds {max_length}")
        place = next((i for i, free in enumerate(room) if lengths[row] <= free), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(max_length)
        bins[place].append(row)
        room[place] -= lengths[row]
    return bins


def micro_batches(lengths: Sequence[int], max_rows: int, max_tokens: int | None = None) -> list[list[int]]:
    """Micro-batches of similar lengths, longest first: at most `max_rows` rows and `max_tokens` tokens, padding included.

    [5, 1, 4, 2], 2 -> [[0, 2], [3, 1]]   no token limit: 5 + 5 and 2 + 2 positions instead of 5 + 5 and 4 + 4

    The longest batch comes first, so that a plan that does not fit in memory fails at once and not after an hour. A row longer
    than `max_tokens` gets a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in _longest_first(lengths):
        last = batches[-1] if batches else []
        is_full = len(last) >= max_rows or (max_tokens is not None and (len(last) + 1) * longest > max_tokens)
        if not last or is_full:
            batches.append([row])
            longest = lengths[row]
        else:
            last.append(row)
    return batches


def padding_waste(lengths: Sequence[int], groups: Sequence[Sequence[int]], width: int | None = None) -> float:
    """Share of positions that hold padding when each group is one bin of `width` tokens.

    `width=None`: the groups are micro-batches instead, each row padded to the longest of its group.
    """
    widths = (width if width is not None else len(group) * max(lengths[row] for row in group) for group in groups)
    positions = sum(widths)
    used = sum(lengths[row] for group in groups for row in group)
    return 1 - used / positions if positions else 0.0


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
