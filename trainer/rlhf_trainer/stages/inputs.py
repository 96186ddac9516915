"""What a training stage reads: models of earlier stages or of Prepare, and prepared datasets. All of it is proven by digest first.

Rank 0 hashes; the others only wait for it, because eight workers of a node would read the same bytes eight times.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, overload

from rlhf_api.outcome import Prepared
from rlhf_trainer.data.rows import ConversationRow, PreferenceRow, PromptRow, Purpose
from rlhf_trainer.data.store import PreparedDataset, directory_digest, open_dataset
from rlhf_trainer.errors import InputError
from rlhf_trainer.run import Run
from rlhf_trainer.state import manifest


def read_prepared(run: Run) -> Prepared:
    """What Prepare found and wrote.

    Raises:
        InputError: its output is missing, or is not the one that run.json names.
    """
    reference = run.config.prepared
    if reference is None:
        raise InputError("run.json names no output of Prepare", hint="run the Prepare stage again: spec.rerun.fromStage")
    directory = run.root / reference.path
    manifest.read(directory, reference.digest)
    return Prepared.from_wire(json.loads((directory / "prepared.json").read_text("utf-8")))


def chat_template(run: Run) -> str | None:
    """The template that the rows of this job were rendered with, as Jinja text; None for a stage that is run without Prepare."""
    return None if run.config.prepared is None else read_prepared(run).chat_template


def model_directory(run: Run, role: str) -> Path:
    """Where the model for a role (`init`, `policy`, `reward`, `critic`, `model`) lies, in Hugging Face layout, verified.

    Raises:
        InputError: run.json names none, a file is missing, or its content changed.
    """
    config = run.config
    if role in config.inputs:
        directory = run.root / config.inputs[role].path
        if run.is_first:
            manifest.verify(directory, config.inputs[role].digest)
        # the output of PPO carries its critic beside the policy
        is_critic = role == "critic" and (directory / "critic" / "config.json").is_file()
        return directory / ("critic" if is_critic else "model")
    if role not in config.prepared_models:
        raise InputError(f"run.json names no model for the role {role!r}")
    model = read_prepared(run).models[config.prepared_models[role]]
    directory = run.root / model.path
    if run.is_first and (found := directory_digest(directory)) != model.digest:
        raise InputError(f"{directory}: digest {found} must be {model.digest}: its files changed since Prepare", hint="run Prepare again")
    return directory


def has_dataset(run: Run, role: str) -> bool:
    """True when the job names a dataset for the role."""
    return role in run.config.prepared_datasets


@overload
def dataset(run: Run, role: str, purpose: Literal["conversations"]) -> PreparedDataset[ConversationRow]: ...
@overload
def dataset(run: Run, role: str, purpose: Literal["preference"]) -> PreparedDataset[PreferenceRow]: ...
@overload
def dataset(run: Run, role: str, purpose: Literal["prompts"]) -> PreparedDataset[PromptRow]: ...
def dataset(run: Run, role: str, purpose: Purpose) -> PreparedDataset[Any]:
    """The prepared dataset for a role (`dataset`, `prompts`, `pretrainDataset`, `evalDataset`).

    Raises:
        InputError: run.json names none, or its files changed since Prepare.
    """
    if not has_dataset(run, role):
        raise InputError(f"run.json names no dataset for the role {role!r}")
    entry = read_prepared(run).datasets[run.config.prepared_datasets[role]]
    return open_dataset(run.root / entry.path, entry.digest, purpose)


def digests(run: Run) -> dict[str, str]:
    """The lineage of an output: the digest of everything this stage was given, by role."""
    found = {role: reference.digest for role, reference in run.config.inputs.items()}
    if run.config.prepared is not None:
        prepared = read_prepared(run)
        found |= {role: prepared.models[key].digest for role, key in run.config.prepared_models.items()}
        found |= {role: prepared.datasets[key].digest for role, key in run.config.prepared_datasets.items()}
        found["prepared"] = run.config.prepared.digest
    return found
