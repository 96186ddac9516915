"""run.json of an attempt: the resolved configuration that a stage gets. Spec, snapshot and status in, `RunConfig` out.

Nothing is left to default on the other side. What only Prepare knows stays in prepared.json; here are the keys into it.
"""

from rlhf_api import names
from rlhf_api.graph import OutsideModel, StageOutput, datasets_of, inputs_of
from rlhf_api.job import RLHFJobSpec, resolved_precision
from rlhf_api.planning.steps import stated_steps
from rlhf_api.profile import ProfileSpec
from rlhf_api.run_config import Deadlines, Gang, InputRef, JobRef, RunConfig, RunModel, RunPlan, StageConfig, StageRef
from rlhf_api.stages import StageType, resolved_block
from rlhf_api.status import JobStatus, StageStatus
from rlhf_operator.core.model import SHUTDOWN_SECONDS, Observed
from rlhf_operator.core.plans import Planned
from rlhf_operator.core.specs import StageSpec, preparation_of


def run_config(observed: Observed, stage: StageSpec, status: JobStatus, planned: Planned) -> RunConfig:
    """run.json of the stage's newest attempt. `status` already has that attempt, and the digests of its inputs.

    Raises:
        ValueError: an input is not proven. The caller starts a stage only when all are.
    """
    spec, rules = observed.spec, observed.rules
    assert spec is not None
    assert rules is not None
    own = _status_of(status, stage.name)
    models, keys = _models(spec, stage, status)
    return RunConfig(
        job=JobRef(name=observed.name, namespace=observed.namespace, uid=observed.uid),
        stage=StageRef(name=stage.name, type=stage.type),
        attempt=own.attempt,
        gang=_gang(observed, stage, own.attempt),
        root=f"{names.PATH_WORKSPACE}/{observed.uid}",
        directory=names.attempt_directory(stage.name, own.attempt),
        resume_from=resume_from(own),
        model=_model(spec, stage),
        inputs=models,
        prepared=None if stage.stage is None else _input(status, names.PREPARE),
        prepared_models=keys,
        prepared_datasets={} if stage.stage is None else {role: ref.key for role, ref in datasets_of(spec, stage.stage).items()},
        plan=_plan(stage, planned),
        config=_config(spec, stage, rules),
        seed=spec.seed,
        checkpoint=spec.checkpoint,
        deadlines=Deadlines(
            startup_seconds=stage.policy.startup_deadline_seconds,
            progress_seconds=stage.policy.progress_deadline_seconds,
            shutdown_seconds=SHUTDOWN_SECONDS,
        ),
    )


def resume_from(status: StageStatus) -> tuple[str, ...]:
    """Checkpoint directories of the earlier attempts at the same work, oldest first.

    The status keeps only attempts of the present specHash, and of these the last ten; the owner of the newest known checkpoint
    may be older than that.
    """
    if status.type not in (StageType.SFT, StageType.REWARD_MODEL, StageType.PPO):
        return ()
    found = [
        f"{names.attempt_directory(status.name, attempt.attempt)}/{names.DIR_CHECKPOINTS}" for attempt in status.attempts if attempt.outcome
    ]
    if status.checkpoint is not None:
        owner = status.checkpoint.path.rpartition("/")[0]
        if owner not in found:
            found.insert(0, owner)
    return tuple(found)


def _models(spec: RLHFJobSpec, stage: StageSpec, status: JobStatus) -> tuple[dict[str, InputRef], dict[str, str]]:
    """Roles fed by an earlier stage, and roles fed by Prepare."""
    if stage.stage is None:
        return {}, {}
    refs = inputs_of(spec, stage.stage)
    inputs = {role: _input(status, ref.stage) for role, ref in refs.items() if isinstance(ref, StageOutput)}
    return inputs, {role: ref.key for role, ref in refs.items() if isinstance(ref, OutsideModel)}


def _input(status: JobStatus, stage: str) -> InputRef:
    output = _status_of(status, stage).output
    if output is None:
        raise ValueError(f"stage {stage} has no proven output")
    return InputRef(path=output.path, digest=output.digest)


def _gang(observed: Observed, stage: StageSpec, attempt: int) -> Gang:
    topology = stage.topology
    return Gang(
        nodes=topology.nodes,
        processes_per_node=topology.num_processes_per_node,
        world_size=topology.world_size,
        master_address=master_address(observed, stage, attempt),
        device="cuda" if topology.gpus_per_node else "cpu",
    )


def master_address(observed: Observed, stage: StageSpec, attempt: int) -> str:
    """Where the gang meets: the full name of pod 0, or this machine when there is only one."""
    if stage.topology.nodes == 1:
        return "127.0.0.1"
    name = names.attempt_name(observed.name, stage.name, attempt)
    return f"{name}-0.{name}.{observed.namespace}.svc.{observed.settings.cluster_domain}"


def _model(spec: RLHFJobSpec, stage: StageSpec) -> RunModel:
    model = spec.model
    return RunModel(
        size=model.size,
        precision=resolved_precision(model, stage.topology),
        lora=model.lora,
        load_in_4bit=model.load_in_4bit,
        chat_template=model.chat_template,
        trust_remote_code=model.trust_remote_code,
    )


def _plan(stage: StageSpec, planned: Planned) -> RunPlan:
    return RunPlan(
        strategy=planned.strategy,
        tensor_parallel=stage.topology.tensor_parallel,
        pipeline_parallel=stage.topology.pipeline_parallel,
        micro_batch_size=planned.micro_batch_size,
        gradient_checkpointing=planned.gradient_checkpointing,
        total_steps=stated_steps(stage.stage) if stage.stage is not None else None,
    )


def _config(spec: RLHFJobSpec, stage: StageSpec, rules: ProfileSpec) -> StageConfig:
    if stage.stage is None:
        return preparation_of(spec, rules.sources.allow_private_addresses)
    return resolved_block(stage.stage.block, spec.model.lora is not None)


def _status_of(status: JobStatus, stage: str) -> StageStatus:
    return next(candidate for candidate in status.stages if candidate.name == stage)
