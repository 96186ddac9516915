"""Publish: deliver a finished model to where its users look for it, with its proof, its story and its curves. Never imports torch.

    <destination>/               loads with `from_pretrained`: config.json, weights, tokenizer, generation_config.json
    <destination>/adapter/       the LoRA adapter, when there is one
    <destination>/README.md      model card: measurements, lineage, licence, limits
    <destination>/lineage.json   every stage behind the model: digests, inputs, metrics
    <destination>/curves.png     loss, reward, KL, … of those stages
    <destination>/manifest.json  kind artifact: each file's sha256. Its digest names the artifact, and is this stage's output digest

The artifact is built beside its destination and renamed into place: readers see the earlier artifact or the whole new one. A destination
that already holds this model with this card is left alone, so a repeated attempt delivers nothing twice.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from rlhf_api.base import digest
from rlhf_api.outcome import Manifest
from rlhf_api.stages import ModelCard, Publish, StageType
from rlhf_trainer.errors import ConfigError, InputError, StorageError, UnsupportedError
from rlhf_trainer.report import plot
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.run import Run, StageResult
from rlhf_trainer.stages import lineage
from rlhf_trainer.stages.card import LOAD_MODEL, LOAD_SCORE, Card
from rlhf_trainer.state import manifest

log = logging.getLogger(__name__)

CURVES = "curves.png"
ROLE = "model"
CARD_ROLE = "card"
"""Key of the card's own digest among the artifact's inputs: another licence or description is another artifact."""

_SCORE_SUMMARY = (
    "A reward model made by the stages below: it scores an answer to a prompt, and higher is better. "
    "It writes no text. Subtract `mean` of `stage.json` from its scores."
)


def run(run: Run) -> StageResult:
    """Deliver the model of one Publish stage.

    Raises:
        UnsupportedError: the destination's scheme, or signing, does not exist here yet.
        ConfigError: the destination is not a place for an artifact.
        InputError: the model to publish is missing or was changed.
        StorageError: the destination is full or failing. What was there before is still there.
    """
    config = run.config.config
    assert isinstance(config, Publish)
    destination = _destination(run, config)
    source = run.config.inputs[ROLE]
    with Reporter(run) as reporter:
        reporter.plan(2)
        manifest.verify(run.root / source.path, source.digest)
        reporter.step(1, {})
        run.stop_if_requested(1)
        inputs = {ROLE: source.digest, CARD_ROLE: _card_digest(config.model_card)}
        found = _delivered(destination, inputs)
        if found is None:
            try:
                found = _deliver(run, config, destination, inputs)
            except OSError as error:
                raise StorageError(
                    f"{config.destination.uri}: {error.strerror or error}", hint="free space or permissions of the claim"
                ) from error
        else:
            log.info("%s already holds this artifact: nothing was written", config.destination.uri)
        output_digest = _leave_proof(run, destination)
        metrics = {"output_bytes": float(sum(file.size_bytes for file in found.files)), "output_files": float(len(found.files))}
        reporter.step(2, metrics)
    return StageResult(output_digest=output_digest, step=2, metrics=metrics)


def _destination(run: Run, config: Publish) -> Path:
    """The directory behind `pvc://CLAIM/path`."""
    uri = config.destination.uri
    if config.sign:
        raise UnsupportedError(
            "publish.sign: signing does not exist here yet", hint="set publish.sign to false; the manifest's sha256 still proves it"
        )
    if config.destination.scheme != "pvc":
        raise UnsupportedError(f"publish.destination.uri: {uri!r} cannot be written to yet", hint="publish to pvc://<claim>/<path>")
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    if claim not in run.claims:
        known = ", ".join(sorted(run.claims)) or "none"
        raise ConfigError(
            f"publish.destination.uri: claim {claim!r} is not mounted (mounted: {known})", hint=f"rlhf run --claim {claim}=DIR"
        )
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts:
        raise ConfigError(f"publish.destination.uri: {uri!r} must name a directory below the claim", hint=f"pvc://{claim}/my-model")
    return run.claims[claim].joinpath(*parts)


def _delivered(destination: Path, inputs: dict[str, str]) -> Manifest | None:
    """The artifact that is already there, when it was made from the same inputs and is whole."""
    try:
        found = manifest.verify(destination)
    except InputError:
        return None
    return found if found.kind == "artifact" and dict(found.inputs) == inputs else None


def _deliver(run: Run, config: Publish, destination: Path, inputs: dict[str, str]) -> Manifest:
    _refuse_foreign(config, destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    building = destination.with_name(f".{destination.name}.{uuid.uuid4().hex[:8]}")
    try:
        _build(run, config, building, inputs)
        _swap(building, destination)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return manifest.read(destination)


def _refuse_foreign(config: Publish, destination: Path) -> None:
    if destination.exists() and not (destination.is_dir() and (not any(destination.iterdir()) or _is_artifact(destination))):
        raise ConfigError(
            f"publish.destination.uri: {config.destination.uri!r} holds files that are no artifact: they would be lost",
            hint="name an empty or new directory",
        )


def _is_artifact(directory: Path) -> bool:
    """True when all that would be lost was delivered by us. The name alone proves nothing: web apps have a manifest.json, too.

    Listed files may be damaged or missing, which publishing again repairs; one that was added would be gone.
    """
    try:
        found = manifest.read(directory)
    except InputError:
        return False
    ours = {manifest.MANIFEST, *(file.path for file in found.files)}
    # Links are files here, also those to directories, which are not looked into.
    files = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    return found.kind == "artifact" and all(path.relative_to(directory).as_posix() in ours for path in files)


def _build(run: Run, config: Publish, building: Path, inputs: dict[str, str]) -> None:
    source = run.config.inputs[ROLE]
    output = run.root / source.path
    _copy(output / "model", building)
    if (output / "adapter").is_dir():
        _copy(output / "adapter", building / "adapter")
    ancestors = lineage.trace(run.root, source.digest)
    (building / "lineage.json").write_text(_json([ancestor.to_wire() for ancestor in ancestors]), "utf-8")
    drawn = plot.draw({ancestor.manifest.stage: ancestor.directory for ancestor in ancestors}, building / CURVES)
    (building / "README.md").write_text(_card(run, config, ancestors, has_curves=bool(drawn)).text(), "utf-8")
    newest = ancestors[-1].manifest
    manifest.write_manifest(building, "artifact", run, step=newest.step, inputs=inputs, metrics=dict(newest.metrics))


def _copy(source: Path, destination: Path) -> None:
    """Unlike `shutil.copytree`, which goes on after an error and then raises a list of them, this stops at the first one."""
    for file in source.rglob("*"):
        if file.is_file():
            copy = destination / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)


def _card(run: Run, config: Publish, ancestors: list[lineage.Ancestor], *, has_curves: bool) -> Card:
    newest = ancestors[-1].manifest
    facts = _stage_facts(run)
    method, is_score = facts.get("config", {}).get("method"), facts.get("type") == StageType.REWARD_MODEL
    card = config.model_card or ModelCard()
    return Card(
        title=run.config.job.name,
        summary=_SCORE_SUMMARY if is_score else _chat_summary(method),
        description=card.description,
        license=card.license,
        tags=card.tags,
        metrics=dict(newest.metrics),
        inputs=dict(newest.inputs),
        lineage=[ancestor.line() for ancestor in ancestors],
        images=[CURVES] if has_curves else [],
        loading=LOAD_SCORE if is_score else LOAD_MODEL,
        requires="bitsandbytes and accelerate" if method else "",
    )


def _stage_facts(run: Run) -> Mapping[str, Any]:
    """The `stage.json` of the model to publish; empty when there is none."""
    file = run.root / run.config.inputs[ROLE].path / "model" / "stage.json"
    facts: Mapping[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return facts


def _chat_summary(method: str | None) -> str:
    return "A chat model made by the stages below" + (f", its weights stored as {method} by bitsandbytes." if method else ".")


def _swap(building: Path, destination: Path) -> None:
    """Put the new artifact in place. A rename cannot replace a full directory, so the earlier one steps aside first."""
    aside = building.with_name(f"{building.name}.old")
    if destination.exists():
        destination.rename(aside)
    try:
        building.rename(destination)
    except OSError:
        if aside.exists():
            aside.rename(destination)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _leave_proof(run: Run, destination: Path) -> str:
    """The artifact's manifest as this stage's own output: the files it lists lie at the destination. Returns its digest."""
    run.output.mkdir(parents=True, exist_ok=True)
    content = (destination / manifest.MANIFEST).read_bytes()
    manifest.write_atomically(run.output / manifest.MANIFEST, content)
    return digest(content)


def _card_digest(card: ModelCard | None) -> str:
    return digest(_json(card.to_wire() if card else {}).encode())


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
