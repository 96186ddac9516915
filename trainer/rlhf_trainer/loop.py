"""What the training stages share: accumulate, clip, log, save, stop, resume.

    with Reporter(run) as reporter:
        loop = Loop(run, strategy, reporter, models={"model": trained}, parts={"cursor": cursor}, total_steps=total)
        loop.resume()                                           # from the newest checkpoint that verifies, else from the start
        while (window := cursor.next()) is not None:
            report = loop.update(trained, micro_batches, loss_of, max_norm=1.0)
            loop.finish_step({"loss": loss, "grad_norm": report.grad_norm})        # logs, then saves or stops

Everything that decides a later step is either in `models` (weights, masters, moments, schedule), in `parts` (JSON: cursors, KL
controller, running statistics) or in `tensors` (for example an averaged policy): a stage that keeps state elsewhere does not resume
exactly. All workers call all methods in the same order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from rlhf_api.outcome import CheckpointRef
from rlhf_trainer import cpu, memory
from rlhf_trainer.data.order import Cursor
from rlhf_trainer.errors import Diverged, InternalError, Preempted
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.run import Run
from rlhf_trainer.state import checkpoint, environment, rng
from rlhf_trainer.state.writer import Draft, Writer
from rlhf_trainer.strategy.base import StepReport, Strategy, Trained

Batch = TypeVar("Batch")
MAX_SKIPPED_IN_A_ROW = 3
"""So many non-finite steps of one model in a row end the stage (rule P19)."""
_SAVE, _STOP = 1, 2


class Part(Protocol):
    """Something with a small state: `state` must be JSON, and `restore` must accept it after a round trip."""

    def state(self) -> Mapping[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class TensorPart(Protocol):
    """Something with tensors of its own. Rank 0's are saved; all workers read them back."""

    @property
    def state_bytes(self) -> int: ...

    def state(self) -> Iterator[tuple[str, Tensor]]: ...

    def load_state(self, read: Callable[[str], Tensor]) -> None: ...


class Loop:
    """The steps of one training stage."""

    def __init__(
        self,
        run: Run,
        strategy: Strategy,
        reporter: Reporter,
        *,
        models: Mapping[str, Trained],
        parts: Mapping[str, Part],
        total_steps: int,
        tensors: Mapping[str, TensorPart] | None = None,
    ) -> None:
        self.run, self.strategy, self.reporter = run, strategy, reporter
        self.models, self.parts, self.tensors = dict(models), {**parts, "health": reporter.health}, dict(tensors or {})
        self.total_steps = total_steps
        self.step = 0
        """Finished steps: optimizer steps of SFT and RewardModel, rollouts of PPO."""
        self.last_checkpoint: CheckpointRef | None = None
        self._writer = Writer(run)
        self._saved_step = 0
        self._saved_at = time.monotonic()
        reporter.plan(total_steps)
        self._environment = environment.describe(run, strategy.name, {name: trained.optimizer_choice for name, trained in models.items()})
        if run.is_first:
            environment.write(run, self._environment)
        self._warn_of_emulation()

    def resume(self) -> bool:
        """Continue from the newest checkpoint that verifies. False: there is none, the stage starts at step 0."""
        found = self._agree_on_checkpoint()
        if found is None:
            return False
        state = found.state()
        for name, trained in self.models.items():
            counters = state["models"][name]
            trained.num_updates, trained.num_applied = counters["numUpdates"], counters["numApplied"]
            self.strategy.load_state(trained, found.reader(name))
        for name, tensors in self.tensors.items():
            tensors.load_state(found.reader(name))
        for name, part in self.parts.items():
            part.restore(state["parts"][name])
        self._restore_generators(found, state["worldSize"])
        self.step = found.ref.step
        self.last_checkpoint, self._saved_step = found.ref, found.ref.step
        self.reporter.resume(found.ref, found.attempt_directory)
        return True

    def update(
        self,
        trained: Trained,
        micro_batches: Sequence[Batch],
        loss_of: Callable[[Batch], Tensor],
        *,
        max_norm: float,
        filler: Batch | None = None,
    ) -> StepReport:
        """One optimizer step over this worker's micro-batches.

        `loss_of(batch)` is the batch's part of the objective: a sum divided by the *global* count (rule F1), through `trained.model`.
        Workers may hold different numbers of micro-batches: one with fewer repeats its last one (one with none, `filler`) at weight 0,
        because sharded gradients meet in every backward pass.

        Raises:
            Diverged: the third step of this model in a row had a non-finite gradient.
        """
        num_rounds = self.strategy.world.agree(len(micro_batches))
        spare = micro_batches[-1] if micro_batches else filler
        if spare is None:
            raise ValueError("no micro-batch and no filler: this worker could not take part in the step")
        for index in range(num_rounds):
            is_real = index < len(micro_batches)
            with self.strategy.accumulate(trained, last=index == num_rounds - 1):
                loss = loss_of(micro_batches[index] if is_real else spare)
                self.strategy.backward(trained, loss if is_real else loss * 0)
        report = self.strategy.step(trained, max_norm)
        self._count_skipped(trained, report)
        return report

    def finish_step(self, metrics: Mapping[str, float], row_ids: Sequence[str] = ()) -> None:
        """Count the step, log it with this worker's peaks of memory, then save or stop as all workers agree (rule L4).

        Args:
            metrics: what the step measured, equal on all workers.
            row_ids: the data rows of the step: those behind a spike of the gradient are named in `events.jsonl`.

        Raises:
            Preempted: a worker was asked to stop; the checkpoint is saved.
            StorageError: a checkpoint could not be written.
        """
        self.step += 1
        peaks = memory.peak_bytes(on_cuda=self.strategy.world.device.type == "cuda")
        self.reporter.step(self.step, {**metrics, **{f"peak_{name}": value for name, value in peaks.items()}}, row_ids)
        self._note_saved()
        is_last = self.step == self.total_steps
        wish = self.strategy.world.agree(self._wish())
        if wish:
            self.save(is_urgent=wish == _STOP or is_last)
        if wish == _STOP and not is_last:
            self.strategy.world.barrier()  # nobody leaves before rank 0 has written: its launcher would end the others' pods
            raise Preempted(f"stopped on request at step {self.step}, checkpoint saved")

    def save(self, *, is_urgent: bool = True) -> None:
        """Take a checkpoint of this step. All workers together. When it is not urgent, it is written while training goes on."""
        if self._saved_step == self.step:
            return
        self.reporter.enter("saving")
        generators = self.strategy.world.gather(rng.capture())
        sections: dict[str, Iterable[tuple[str, Tensor]]] = {name: self.strategy.state(trained) for name, trained in self.models.items()}
        sections |= {name: tensors.state() for name, tensors in self.tensors.items()}
        if self.run.is_first:
            num_bytes = sum(model.state_bytes for model in self.models.values()) + sum(part.state_bytes for part in self.tensors.values())
            draft = Draft(step=self.step, sections=sections, state=self._state(), rng=generators, num_bytes=num_bytes)
            self._writer.write(draft, is_urgent=is_urgent)
            self._note_saved()
        else:
            for tensors in sections.values():
                deque(tensors, maxlen=0)  # the collectives inside need every worker
        self._saved_step, self._saved_at = self.step, time.monotonic()
        self.reporter.alive()
        self.reporter.enter("training")

    def finish(self) -> None:
        """Assert that the stage did what it planned (rule C10). Call it after the last step, before the export.

        Raises:
            InternalError: steps are missing: never Succeeded with less work than planned.
        """
        if self.step != self.total_steps:
            raise InternalError(f"the stage ended after {self.step} of {self.total_steps} planned steps")
        cursor = self.parts.get("cursor")
        if isinstance(cursor, Cursor) and cursor.num_consumed != (planned := cursor.rows_in(self.total_steps)):
            raise InternalError(f"the stage used {cursor.num_consumed} of {planned} planned rows")
        self._writer.wait()
        self._note_saved()
        self.reporter.enter("finishing")

    def _warn_of_emulation(self) -> None:
        """A job that crawls should say why: nothing else looks wrong when a CPU emulates bf16."""
        precision, device = self.run.config.model.precision, self.strategy.world.device.type
        if device == "cpu" and precision == "bf16" and cpu.fastest_precision() != "bf16":
            self.reporter.event(
                "SlowPrecision", "model.precision: this CPU emulates bf16, a hundred times slower than fp32; leave precision unset"
            )

    def _note_saved(self) -> None:
        """Tell of the checkpoint that was completed meanwhile, or of its failure."""
        if (saved := self._writer.finished()) is not None:
            self.last_checkpoint = saved.ref
            self.reporter.saved(saved.ref)
            self._warn_when_slow(saved.seconds)

    def _agree_on_checkpoint(self) -> checkpoint.Checkpoint | None:
        found = checkpoint.find_newest(self.run, self._report_skipped) if self.run.is_first else None
        if self.run.is_first and found is None and self.run.config.resume_from:
            self.reporter.event("NoCheckpoint", "no checkpoint of the earlier attempts verifies: the stage starts from the beginning")
        shared = self.strategy.world.share([found.ref.path, found.ref.step] if found else None)
        return checkpoint.open_verified(self.run, *shared) if shared else None

    def _report_skipped(self, directory: Path, why: str) -> None:
        self.reporter.event("CheckpointSkipped", why, checkpoint=str(directory))

    def _restore_generators(self, found: checkpoint.Checkpoint, world_size: int) -> None:
        world = self.strategy.world
        if world.size == world_size:
            rng.restore(found.rng()[world.rank])
        else:
            rng.seed_all(self.run.config.seed + found.ref.step)
            self.reporter.event("WorldSizeChanged", f"{world_size} workers saved the checkpoint, {world.size} read it: dropout differs")

    def _count_skipped(self, trained: Trained, report: StepReport) -> None:
        """Each model counts for itself: a sound critic between its steps says nothing about the policy."""
        trained.num_skipped_in_a_row = trained.num_skipped_in_a_row + 1 if report.was_skipped else 0
        name = next(name for name, model in self.models.items() if model is trained)
        if report.was_skipped:
            problem = f"the gradient norm of the {name} in step {self.step + 1} is {report.grad_norm}: no weight of it was changed"
            self.reporter.event("StepSkipped", problem)
        if trained.num_skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"{name}: {MAX_SKIPPED_IN_A_ROW} steps in a row had a non-finite gradient, the last one in step {self.step + 1}",
                hint="lower the learning rate, or train in bf16 instead of fp16 ranges; the last checkpoint is good",
            )

    def _wish(self) -> int:
        if self.run.stop_requested():
            return _STOP
        policy = self.run.config.checkpoint
        is_due = self.step == self.total_steps
        is_due |= policy.every_steps is not None and self.step % policy.every_steps == 0
        is_due |= policy.every_seconds is not None and time.monotonic() - self._saved_at >= policy.every_seconds
        return _SAVE if is_due else 0

    def _state(self) -> dict[str, Any]:
        return {
            "version": 1,
            "step": self.step,
            "worldSize": self.strategy.world.size,
            "runDigest": self.run.digest,
            "environment": self._environment,
            "models": {name: {"numUpdates": model.num_updates, "numApplied": model.num_applied} for name, model in self.models.items()},
            "parts": {name: dict(part.state()) for name, part in self.parts.items()},
        }

    def _warn_when_slow(self, seconds: float) -> None:
        grace = self.run.config.deadlines.shutdown_seconds
        if seconds > grace:
            self.reporter.event("SlowCheckpoint", f"saving took {seconds:.0f} s, a stop on request leaves {grace} s: it would be lost")
