"""When to save, when to try again, when to give up."""

from pydantic import Field

from rlhf_api.base import ApiModel, Int, StageName, Token


class CheckpointPolicy(ApiModel):
    """How often a stage saves, and how many checkpoints stay."""

    every_steps: Int | None = Field(
        None, ge=1, le=10_000_000, description="Optimizer steps (PPO: rollouts) between checkpoints; unset = by time only."
    )
    every_seconds: Int = Field(900, ge=10, le=86400, description="Seconds between checkpoints.")
    keep: Int = Field(2, ge=1, le=100, description="Complete checkpoints kept per stage.")


class RunPolicy(ApiModel):
    """Budgets and deadlines of the job and of its stages."""

    max_attempts: Int = Field(3, ge=1, le=20, description="The stage fails when this many attempts ended in a counted failure.")
    max_disruptions: Int = Field(20, ge=0, le=200, description="The stage fails when more attempts than this ended by disruption.")
    startup_deadline_seconds: Int = Field(
        1800,
        ge=30,
        le=86400,
        description="From the start of the Job (after the queue) until all pods are ready; time without any placed pod does not count.",
    )
    progress_deadline_seconds: Int = Field(
        1800, ge=60, le=86400, description="Time without a new step before an attempt counts as stalled."
    )
    active_deadline_seconds: Int | None = Field(
        None,
        ge=60,
        le=31_536_000,
        description="Running time of the job, without queueing and suspension; unset = the limit of the profile.",
    )
    ttl_seconds_after_finished: Int | None = Field(
        None, ge=0, le=31_536_000, description="Delete the finished RLHFJob after this time; unset = never. Artifacts stay."
    )
    max_parallel_stages: Int = Field(1, ge=1, le=10, description="Stages that may run at the same time when their inputs are ready.")


class StageRunPolicy(ApiModel):
    """Single values of `spec.runPolicy`, replaced for one stage. What is unset holds as the job says."""

    max_attempts: Int | None = Field(
        None, ge=1, le=20, description="The stage fails when this many attempts ended in a counted failure; unset = spec.runPolicy."
    )
    max_disruptions: Int | None = Field(
        None, ge=0, le=200, description="The stage fails when more attempts than this ended by disruption; unset = spec.runPolicy."
    )
    startup_deadline_seconds: Int | None = Field(
        None,
        ge=30,
        le=86400,
        description="From the start of the Job (after the queue) until all pods are ready; unset = spec.runPolicy.",
    )
    progress_deadline_seconds: Int | None = Field(
        None, ge=60, le=86400, description="Time without a new step before an attempt counts as stalled; unset = spec.runPolicy."
    )
    active_deadline_seconds: Int | None = Field(
        None, ge=60, le=31_536_000, description="Running time of the stage over all its attempts; unset = spec.runPolicy."
    )


class Rerun(ApiModel):
    """Run a part of a job again."""

    from_stage: StageName = Field(description="Runs again together with its dependants and with every changed stage.")
    token: Token = Field(description="Any new value starts the rerun.")


def resolved_run_policy(job: RunPolicy, stage: StageRunPolicy | None) -> RunPolicy:
    """The run policy of one stage: the job's, with the stage's own values put over it."""
    return job if stage is None else job.model_copy(update=stage.model_dump(exclude_none=True))
