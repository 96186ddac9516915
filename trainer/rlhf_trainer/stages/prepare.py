"""Prepare: fetch and verify every source, turn rows into tokens, say what was found. Needs no torch and no GPU.

1. Models come first: their tokenizers, contexts and vocabularies decide whether the rest can work at all.
2. Each dataset is parsed strictly, rendered with the chat template, tokenised and stored under the hash of all that it depends on,
   so a later attempt, or another stage with the same settings, finds it finished (rule D9).
3. `output/prepared.json` names everything with path and digest; its manifest is written last.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_api.outcome import Prepared, PreparedDataset, PreparedModel
from rlhf_api.run_config import DatasetRequest, PrepareConfig
from rlhf_trainer.data.dataset import DatasetMaker
from rlhf_trainer.data.sources import Fetched, Sources
from rlhf_trainer.data.statistics import describe
from rlhf_trainer.data.template import Template
from rlhf_trainer.data.tokenizer import ModelTokenizer, load_tokenizer
from rlhf_trainer.errors import ConfigError, InternalError, UnsupportedError
from rlhf_trainer.report.reporter import Reporter
from rlhf_trainer.run import Run, StageResult
from rlhf_trainer.state.manifest import write_manifest

log = logging.getLogger(__name__)

_PPO_ROLES = frozenset({"policy", "reward", "critic"})


@dataclass(frozen=True, slots=True)
class _Work:
    """One attempt of Prepare: what it was asked for, and what it has so far."""

    run: Run
    config: PrepareConfig
    reporter: Reporter
    sources: Sources
    fetched: dict[str, Fetched] = field(default_factory=dict)
    """Models by key."""
    tokenizers: dict[str, ModelTokenizer] = field(default_factory=dict)


def run(run: Run) -> StageResult:
    """Do everything that the job's stages need from outside. One step is one source.

    Raises:
        StageError: InputError (missing or changed content), DataError (rows), ConfigError (lengths, templates), UnsupportedError
            (vocabularies, schemes). Nothing half-written is left on the volume.
    """
    config = run.config.config
    if not isinstance(config, PrepareConfig):
        raise InternalError(f"Prepare was given the configuration of {type(config).__name__}")
    with Reporter(run) as reporter:
        sources = Sources(
            root=run.root,
            claims=run.claims,
            secrets=run.secrets,
            seed=run.config.seed,
            allow_private_addresses=config.allow_private_addresses,
            is_alive=reporter.alive,
        )
        work = _Work(run, config, reporter, sources)
        reporter.plan(len(config.models) + len(config.datasets))
        _fetch_models(work)
        _check_vocabularies(work)
        template = _template(work)
        datasets = {request.key: _prepare_dataset(work, template, request) for request in config.datasets}
        return _complete(work, template, datasets)


def _fetch_models(work: _Work) -> None:
    for step, request in enumerate(work.config.models, start=1):
        work.run.stop_if_requested(step - 1)
        found = work.sources.fetch(request.source, "models")
        work.fetched[request.key] = found
        work.tokenizers[request.key] = tokenizer = load_tokenizer(found.path)
        log.info("%s: %s, vocabulary %d, %s", request.key, request.source.uri, tokenizer.vocab_size, found.digest)
        work.reporter.step(step, {})


def _check_vocabularies(work: _Work) -> None:
    """Policy, reward model and critic read each other's token ids: their vocabularies must be the same."""
    for stage in dict.fromkeys(key.partition(".")[0] for key in work.tokenizers if key.partition(".")[2] in _PPO_ROLES):
        keys = [key for key in work.tokenizers if key.partition(".")[0] == stage and key.partition(".")[2] in _PPO_ROLES]
        # A role without a source is fed by an earlier stage, which began from `model`; another `init` is checked by PPO itself.
        has_other_init = any(key.endswith(".init") for key in work.tokenizers)
        others = keys[1:] or ([] if has_other_init or "model" not in work.tokenizers else ["model"])
        for other in others:
            _check_equal_vocabularies(work, keys[0], other)


def _check_equal_vocabularies(work: _Work, key: str, other: str) -> None:
    mine, theirs = work.tokenizers[key].vocabulary(), work.tokenizers[other].vocabulary()
    if mine != theirs:
        token = min((token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token)), key=len)
        raise UnsupportedError(
            f"{key}: its vocabulary must equal that of {other}: token {token!r} is {mine.get(token)} here and {theirs.get(token)} there",
            hint="train the reward model from the same base model as the policy",
        )


def _template(work: _Work) -> Template:
    """The one template of the job: that of the model which most datasets are tokenised for, the base model."""
    keys = [request.tokenizer for request in work.config.datasets] or list(work.tokenizers)
    key = "model" if "model" in keys else keys[0]
    return work.tokenizers[key].template(work.config.chat_template)


def _prepare_dataset(work: _Work, template: Template, request: DatasetRequest) -> PreparedDataset:
    step = len(work.config.models) + list(work.config.datasets).index(request)
    work.run.stop_if_requested(step)
    tokenizer = work.tokenizers[request.tokenizer]
    length = request.max_length + request.answer_length
    if tokenizer.context is not None and length > tokenizer.context:
        raise ConfigError(
            f"{request.key}: {length} tokens a row must be at most {tokenizer.context}, the context of model "
            f"{request.tokenizer!r}: lower maxLength, or maxPromptLength and maxNewTokens"
        )
    fetched = work.sources.fetch(request.dataset, "datasets")
    own_template = template if tokenizer is work.tokenizers.get("model") else tokenizer.template(work.config.chat_template)
    made = DatasetMaker(work.run.root / "datasets", fetched, request, tokenizer, own_template, work.reporter.alive).make()
    log.info("%s", describe(request.key, made.statistics))
    work.reporter.step(step + 1, {"dropped_rows": float(made.statistics["droppedRows"])})
    return PreparedDataset(
        path=_relative(work, made.path),
        digest=made.digest,
        rows=made.rows,
        eval_rows=made.eval_rows,
        held_out_rows=made.held_out_rows,
        statistics=made.statistics,
    )


def _complete(work: _Work, template: Template, datasets: dict[str, PreparedDataset]) -> StageResult:
    models = {
        key: PreparedModel(path=_relative(work, found.path), digest=found.digest, vocab_size=work.tokenizers[key].vocab_size)
        for key, found in work.fetched.items()
    }
    prepared = Prepared(version=1, chat_template=template.source, models=models, datasets=datasets)
    output = work.run.output
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(prepared.to_wire(), ensure_ascii=False, indent=1) + "\n"
    (output / "prepared.json").write_text(text, "utf-8")
    step = len(models) + len(datasets)
    metrics = {"rows": float(sum(dataset.rows for dataset in datasets.values())), "dropped_rows": float(sum(_dropped_rows(datasets)))}
    inputs = {key: found.digest for key, found in work.fetched.items()} | {key: found.digest for key, found in datasets.items()}
    digest = write_manifest(output, "output", work.run, step=step, inputs=inputs, metrics=metrics)
    return StageResult(output_digest=digest, step=step, metrics=metrics)


def _dropped_rows(datasets: dict[str, PreparedDataset]) -> Iterator[int]:
    for dataset in datasets.values():
        count = dataset.statistics["droppedRows"]
        yield count if isinstance(count, int) else 0


def _relative(work: _Work, path: Path) -> str:
    return path.relative_to(work.run.root).as_posix()
