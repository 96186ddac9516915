"""What the schema accepts and this version cannot do yet: combinations, sources and destinations. Each answer names what works.

A parsed job flows in, problems with exit code 69 flow out. The CLI and the operator's admission ask before anything runs; the
planner refuses what depends on memory, and the trainer refuses the same combinations again.
"""

from collections.abc import Iterator

from rlhf_api.job import RLHFJob, RLHFJobSpec
from rlhf_api.outcome import ExitCode
from rlhf_api.paths import Location, as_text, walk
from rlhf_api.problems import Problem
from rlhf_api.rules.job import is_split, is_training, strategy_of, topology_of

WORKING_SOURCES = ("builtin", "pvc", "https")
WORKING_DESTINATIONS = ("pvc",)


def find_unsupported(job: RLHFJob) -> list[Problem]:
    """Everything in a valid job that this version cannot run, all at once."""
    return [*_find_model_limits(job.spec), *_find_stage_limits(job.spec), *_find_schemes(job.spec), *_find_signing(job.spec)]


def _problem(path: str, value: object, rule: str) -> Problem:
    return Problem(path, value, rule, ExitCode.UNSUPPORTED)


def _find_model_limits(spec: RLHFJobSpec) -> Iterator[Problem]:
    if spec.model.precision == "fp16":
        yield _problem("spec.model.precision", "fp16", "is Unsupported, because losses are not scaled: use bf16 or fp32")
    if spec.model.trust_remote_code:
        # Outputs are written by the stages, and none copies the model's Python files: the next stage could not load its input.
        fix = "leave it false, and use a model whose architecture is part of transformers"
        yield _problem("spec.model.trustRemoteCode", True, f"is Unsupported in this version, because outputs hold no Python code: {fix}")


def _find_stage_limits(spec: RLHFJobSpec) -> Iterator[Problem]:
    """Strategies and topologies that no training stage can have; each place is named once, however many stages inherit it."""
    seen: set[str] = set()
    for i, stage in enumerate(spec.stages):
        if not is_training(stage):
            continue
        strategy, topology = strategy_of(spec, stage), topology_of(spec, stage)
        path = f"spec.stages[{i}].strategy" if stage.strategy else "spec.strategy"
        if strategy == "3d" and path not in seen:
            yield _problem(
                path, strategy, "is Unsupported in this image: use auto, ddp, zero1, zero2, zero2-offload, gemini or gemini-offload"
            )
        seen.add(path)
        path = f"spec.stages[{i}].topology" if stage.topology else "spec.topology"
        if is_split(topology) and path not in seen:
            for name, value in (("tensorParallel", topology.tensor_parallel), ("pipelineParallel", topology.pipeline_parallel)):
                if value > 1:
                    yield _problem(f"{path}.{name}", value, "is Unsupported in this image: use 1, and zero2 or gemini to spread the model")
        seen.add(path)


def _find_schemes(spec: RLHFJobSpec) -> Iterator[Problem]:
    """Every uri that Prepare cannot fetch or Publish cannot write to, found by its name wherever it stands."""
    for location, part in walk(spec, ("spec",)):
        uri = part.__dict__.get("uri")
        if not isinstance(uri, str):
            continue
        scheme = uri.partition("://")[0]
        is_destination = "destination" in location
        if scheme in (WORKING_DESTINATIONS if is_destination else WORKING_SOURCES):
            continue
        fix = "publish to pvc://<claim>/<path>" if is_destination else f"use {_working_sources(location)}"
        yield _problem(as_text((*location, "uri")), uri, f"has scheme {scheme}://, which is Unsupported in this version: {fix}")


def _working_sources(location: Location) -> str:
    is_model = any(token in ("source", "init") for token in location)
    return "builtin:// or pvc://" if is_model else "builtin://, pvc:// or https://"


def _find_signing(spec: RLHFJobSpec) -> Iterator[Problem]:
    for i, stage in enumerate(spec.stages):
        if stage.publish is not None and stage.publish.sign:
            yield _problem(
                f"spec.stages[{i}].publish.sign",
                True,
                "is Unsupported in this version: leave sign false; the manifest still proves every file",
            )
