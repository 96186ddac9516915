"""Keys and values of the rows in flight, allocated ahead in blocks of columns (rules G1, G2).

transformers' dynamic cache concatenates: it copies everything for each token. Here a token is written in place, and rows
leave, move and join in one copy at the moments when the batch changes. All rows share the column of their newest token, so
rows with shorter histories are padded on the left; columns that only hold padding are dropped when rows leave.

Layers with a sliding window keep all columns too. Their window is in the attention mask, which transformers derives from
column distances, and these are the same as token distances.
"""

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK_TOKENS, BLOCK_TOKENS_CPU = 64, 16
"""Columns added at a time. Attention reads whole blocks, unused columns included: one long stream is faster than slices with
gaps (measured on an EPYC: 0.44 against 0.80 ms a layer at 64 rows), so a CPU, which pays for every column, gets small blocks."""


class RowLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is Any here
    """One layer's keys and values, (rows, heads, columns, head size), of which the first `length` columns are used."""

    is_compileable = True  # as for a static cache: transformers must not leave the mask out, unused columns are in sight

    def __init__(self, **kwargs: object) -> None:
        super().__init__()
        self.length, self.block_tokens = 0, BLOCK_TOKENS

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the first rows: sizes, types and device are only known now."""
        self.block_tokens = BLOCK_TOKENS_CPU if key_states.device.type == "cpu" else BLOCK_TOKENS
        width = self.capacity(key_states.shape[2] + 1)
        self.keys, self.values = (_zeros(states, states.shape[0], width) for states in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write new columns behind the used ones. Returns what attention reads, which is as wide as `get_mask_sizes` said."""
        is_first = not self.is_initialized
        if is_first:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[2]
        if self.length > self.keys.shape[2]:
            width = self.capacity(self.length)
            self.keys, self.values = (_right_aligned([states[:, :, :start]], start, width) for states in (self.keys, self.values))
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return (key_states, value_states) if is_first else (self.keys, self.values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that attention will see, and the index of the first."""
        return (self.capacity(self.length + query_length) if self.is_initialized else query_length), 0

    def capacity(self, num_columns: int) -> int:
        """Columns of the blocks that hold `num_columns`."""
        return -(-num_columns // self.block_tokens) * self.block_tokens

    def get_seq_length(self) -> int:
        """Used columns."""
        return self.length

    def get_max_length(self) -> int:
        """No limit: the cache grows by blocks."""
        return -1


class RowCache(Cache):  # type: ignore[misc]
    """A transformers cache whose rows can leave and join."""

    def __init__(self, layers: list[RowLayer] | None = None) -> None:
        if layers:
            super().__init__(layers=layers)
        else:
            super().__init__(layer_class_to_replicate=RowLayer)  # layers appear at the first forward

    def repacked(self, kept_rows: Tensor, first_column: int, joining: "RowCache", num_columns: int) -> "RowCache":
        """A cache of some rows without their first columns, and behind them those of `joining`; all end at `num_columns`."""
        if not kept_rows.shape[0]:
            return joining
        return RowCache(
            [
                _repacked(layer, kept_rows, first_column, joining.layers[index] if joining.layers else None, num_columns)
                for index, layer in enumerate(self.layers)
            ]
        )


def _repacked(layer: RowLayer, kept_rows: Tensor, first_column: int, joining: RowLayer | None, num_columns: int) -> RowLayer:
    packed = RowLayer()
    packed.length, packed.block_tokens, packed.is_initialized = num_columns, layer.block_tokens, True
    for name in ("keys", "values"):
        parts = [getattr(layer, name)[kept_rows, :, first_column : layer.length]]
        if joining:
            parts.append(getattr(joining, name)[:, :, : joining.length])
        setattr(packed, name, _right_aligned(parts, num_columns, layer.capacity(num_columns + 1)))
    return packed


def _right_aligned(parts: list[Tensor], num_columns: int, width: int) -> Tensor:
    """Rows of all parts in one tensor of `width` columns; the last column of each part is column `num_columns` - 1."""
    packed, first_row = _zeros(parts[0], sum(part.shape[0] for part in parts), width), 0
    for part in parts:
        packed[first_row : first_row + part.shape[0], :, num_columns - part.shape[2] : num_columns] = part
        first_row += part.shape[0]
    return packed


def _zeros(like: Tensor, num_rows: int, width: int) -> Tensor:
    # zeros, not empty: attention multiplies masked columns by 0, and 0 * NaN of stale memory is NaN
    return like.new_zeros((num_rows, like.shape[1], width, like.shape[3]))
