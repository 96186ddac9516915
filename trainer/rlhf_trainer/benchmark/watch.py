"""How much memory a run takes: the pulse of the stage in, peaks in bytes out.

The stage beats after every piece of work, so its heartbeat is where peaks are read. Saving and exporting at the end load models once
more; they are no part of the steps, and what they take is not counted.
"""

from __future__ import annotations

from typing import Final

from rlhf_trainer.memory import peak_bytes
from rlhf_trainer.report.heartbeat import Heartbeat

NOT_MEASURED: Final = frozenset({"saving", "finishing"})


class PeakWatch(Heartbeat):
    """A heartbeat that nobody watches and that remembers peaks."""

    def __init__(self, *, on_cuda: bool) -> None:
        super().__init__(None, 0)
        self._on_cuda = on_cuda
        self.peaks: dict[str, int] = {}
        """Bytes so far, by the names of `memory.peak_bytes`."""

    def beat(self, state: str, step: int) -> None:
        """Note the peaks up to here."""
        if state in NOT_MEASURED:
            return
        self.peaks = {name: max(value, self.peaks.get(name, 0)) for name, value in peak_bytes(on_cuda=self._on_cuda).items()}
