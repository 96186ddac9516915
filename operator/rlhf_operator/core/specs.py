"""The stages of a job as the operator handles them: Prepare included, topology and policy resolved, and what identifies their work.

A spec and a profile flow in; `StageSpec`s in order and the `specHash` of a stage flow out. The hash answers one question: are the
checkpoints of an earlier attempt still checkpoints of this work?
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf_api import names
from rlhf_api.base import canonical_json, digest
from rlhf_api.graph import StageOutput, datasets_of, dependencies, inputs_of
from rlhf_api.job import RLHFJobSpec
from rlhf_api.planning.steps import topology_of
from rlhf_api.policies import RunPolicy, resolved_run_policy
from rlhf_api.preparation import prepare_config
from rlhf_api.profile import ProfileSpec
from rlhf_api.run_config import PrepareConfig
from rlhf_api.stages import Stage, StageType, resolved_block
from rlhf_api.topology import Topology
from rlhf_operator.core.memo import by_identity

_ONE_CPU_POD = Topology(nodes=1, gpus_per_node=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """A stage with everything resolved that does not depend on other stages' outputs."""

    name: str
    type: StageType
    stage: Stage | None
    """None for Prepare, which nobody writes."""
    topology: Topology
    policy: RunPolicy
    needs: frozenset[str]

    @property
    def reaches_outside(self) -> bool:
        """Prepare and Publish: they get secrets and claims, and may leave the cluster."""
        return self.type in (StageType.PREPARE, StageType.PUBLISH)


@by_identity
def stages_of(spec: RLHFJobSpec) -> tuple[StageSpec, ...]:
    """All stages in an order of execution, Prepare first."""
    needs = dependencies(spec)
    prepare = StageSpec(
        name=names.PREPARE, type=StageType.PREPARE, stage=None, topology=_ONE_CPU_POD, policy=spec.run_policy, needs=frozenset()
    )
    return (prepare, *(_stage_spec(spec, stage, needs[stage.name]) for stage in spec.stages))


@by_identity
def preparation_of(spec: RLHFJobSpec, allow_private_addresses: bool = False) -> PrepareConfig:
    """What Prepare fetches. Where it may connect to matters to Prepare alone."""
    return prepare_config(spec, allow_private_addresses=allow_private_addresses)


def spec_hash(spec: RLHFJobSpec, stage: StageSpec, rules: ProfileSpec, outputs: Mapping[str, str]) -> str:
    """Digest of a stage's block without topology, strategy and runPolicy, of its datasets and of its inputs' digests.

    Args:
        outputs: digests of the proven outputs by stage. The output of Prepare is left out: a dataset that another stage
            added changes it, and not this stage's work.
    """
    if stage.stage is None:
        config = preparation_of(spec, rules.sources.allow_private_addresses)
        return digest(canonical_json({"prepare": config.to_wire(), "seed": spec.seed}))
    inputs = {
        role: outputs.get(ref.stage, "") if isinstance(ref, StageOutput) else ref.source.to_wire()
        for role, ref in inputs_of(spec, stage.stage).items()
    }
    document = {
        "model": spec.model.to_wire(),
        "block": resolved_block(stage.stage.block, spec.model.lora is not None).to_wire(),
        "datasets": {role: ref.dataset.to_wire() for role, ref in datasets_of(spec, stage.stage).items()},
        "inputs": inputs,
        "seed": spec.seed,
    }
    return digest(canonical_json(document))


def secrets_of(spec: RLHFJobSpec, stage: StageSpec, rules: ProfileSpec) -> tuple[str, ...]:
    """Names of the Secrets that a stage mounts: sources' for Prepare, destination's and signing key for Publish."""
    if stage.stage is None:
        config = preparation_of(spec)
        found = {request.source.secret_name for request in config.models} | {request.dataset.secret_name for request in config.datasets}
    else:
        publish = stage.stage.publish
        found = {publish.destination.secret_name, rules.publish.signing_secret_name if publish.sign else None} if publish else set()
    return tuple(sorted(name for name in found if name))


def claims_of(spec: RLHFJobSpec, stage: StageSpec) -> tuple[str, ...]:
    """Names of the claims that a stage mounts beside the volume of the job: those of its pvc:// uris."""
    return tuple(sorted({uri.removeprefix("pvc://").partition("/")[0] for uri in uris_of(spec, stage) if uri.startswith("pvc://")}))


def uris_of(spec: RLHFJobSpec, stage: StageSpec) -> tuple[str, ...]:
    """Everything outside that a stage touches: all sources for Prepare, the destination for Publish."""
    if stage.stage is None:
        config = preparation_of(spec)
        return (*(request.source.uri for request in config.models), *(request.dataset.uri for request in config.datasets))
    return (stage.stage.publish.destination.uri,) if stage.stage.publish is not None else ()


def _stage_spec(spec: RLHFJobSpec, stage: Stage, needs: frozenset[str]) -> StageSpec:
    topology = _ONE_CPU_POD if stage.type is StageType.PUBLISH else topology_of(spec, stage)
    policy = resolved_run_policy(spec.run_policy, stage.run_policy)
    return StageSpec(name=stage.name, type=StageType(stage.type), stage=stage, topology=topology, policy=policy, needs=needs)
