"""Which stage needs which, derived from the inputs a user wrote and the defaults for those left out.

A validated spec flows in; out come the inputs of a stage by role, the dependencies between stages, and the keys under which Prepare
keeps what comes from outside. Names only ever point backwards, so the order of the file is an order of execution.
"""

from dataclasses import dataclass

from rlhf_api import names
from rlhf_api.inputs import Dataset, ModelInput, Source
from rlhf_api.job import RLHFJobSpec
from rlhf_api.stages import PPO, SFT, Publish, Quantize, RewardModel, Stage, StageType

BASE_MODEL_KEY = "model"
"""Key of `spec.model.source` in prepared.json."""


@dataclass(frozen=True, slots=True)
class StageOutput:
    """A model that an earlier stage hands on."""

    stage: str


@dataclass(frozen=True, slots=True)
class OutsideModel:
    """A model that Prepare fetches and keeps under `key`."""

    key: str
    source: Source


ModelRef = StageOutput | OutsideModel


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A dataset that Prepare fetches and tokenises under `key`: `<stage>.<field>` of the stage that wrote it."""

    key: str
    dataset: Dataset


def inputs_of(spec: RLHFJobSpec, stage: Stage) -> dict[str, ModelRef]:
    """The models of a stage by role: `init`, or `policy`, `reward` and `critic`, or `model`.

    Raises:
        ValueError: no stage can be meant, which validation refuses.
    """
    earlier = _Earlier(spec, stage)
    match stage.block:
        case SFT() as sft:
            return {"init": earlier.resolve("init", sft.init, ())}
        case RewardModel() as reward_model:
            return {"init": earlier.resolve("init", reward_model.init, (StageType.SFT,))}
        case PPO() as ppo:
            reward = earlier.resolve("reward", ppo.reward, (StageType.REWARD_MODEL,), has_fallback=False)
            return {
                "policy": earlier.resolve("policy", ppo.policy, (StageType.SFT, StageType.PPO)),
                "reward": reward,
                "critic": reward if ppo.critic is None else earlier.resolve("critic", ppo.critic, ()),
            }
        case Quantize() as quantize:
            return {"model": earlier.resolve("model", quantize.model, (StageType.SFT, StageType.PPO))}
        case Publish() as publish:
            offered = (StageType.SFT, StageType.PPO, StageType.QUANTIZE)
            return {"model": earlier.resolve("model", publish.model, offered, has_fallback=False)}


def datasets_of(spec: RLHFJobSpec, stage: Stage) -> dict[str, DatasetRef]:
    """The datasets of a stage by role: `dataset`, `prompts`, `pretrainDataset`, `evalDataset`.

    A Quantize stage without its own rows points at those of the nearest earlier SFT stage, whose held-out part it then uses.
    """
    match stage.block:
        case SFT() | RewardModel() as supervised:
            return {"dataset": DatasetRef(f"{stage.name}.dataset", supervised.dataset)}
        case PPO() as ppo:
            found = {"prompts": DatasetRef(f"{stage.name}.prompts", ppo.prompts)}
            if ppo.pretrain_dataset is not None:
                found["pretrainDataset"] = DatasetRef(f"{stage.name}.pretrainDataset", ppo.pretrain_dataset)
            return found
        case Quantize() as quantize:
            if quantize.eval_dataset is not None:
                return {"evalDataset": DatasetRef(f"{stage.name}.evalDataset", quantize.eval_dataset)}
            donor = _nearest_sft_with_held_out_rows(spec, stage)
            return {} if donor is None or donor.sft is None else {"evalDataset": DatasetRef(f"{donor.name}.dataset", donor.sft.dataset)}
        case Publish():
            return {}


def dependencies(spec: RLHFJobSpec) -> dict[str, frozenset[str]]:
    """For each stage, Prepare included, the stages that must have Succeeded before it starts."""
    needed: dict[str, frozenset[str]] = {names.PREPARE: frozenset()}
    for stage in spec.stages:
        stages = {ref.stage for ref in inputs_of(spec, stage).values() if isinstance(ref, StageOutput)}
        donors = {ref.key.partition(".")[0] for ref in datasets_of(spec, stage).values()} - {stage.name}
        needed[stage.name] = frozenset({names.PREPARE, *stages, *donors, *stage.after})
    return needed


def order(spec: RLHFJobSpec) -> tuple[str, ...]:
    """Names of all stages, Prepare first, each after everything it needs."""
    return (names.PREPARE, *(stage.name for stage in spec.stages))


def dependants(spec: RLHFJobSpec, name: str) -> frozenset[str]:
    """The stages that need this one, directly or through others. Of Prepare: all."""
    found: set[str] = set()
    needed = dependencies(spec)
    for stage in order(spec):  # in this order every stage comes after what it needs
        if needed[stage] & (found | {name}):
            found.add(stage)
    return frozenset(found)


def origin_of(spec: RLHFJobSpec, ref: ModelRef) -> OutsideModel:
    """The model from outside that a model was trained from: its tokenizer is the model's tokenizer."""
    while isinstance(ref, StageOutput):
        roles = inputs_of(spec, spec.stage(ref.stage))
        ref = next(iter(roles.values()))  # init, policy and model are the first roles of their stages
    return ref


class _Earlier:
    """What a stage can see: the stages before it, nearest first, and the base model."""

    def __init__(self, spec: RLHFJobSpec, stage: Stage) -> None:
        self._spec, self._stage = spec, stage
        self._stages = list_earlier(spec, stage)

    def resolve(self, role: str, written: ModelInput | None, offered: tuple[StageType, ...], *, has_fallback: bool = True) -> ModelRef:
        """What a user wrote, else the nearest earlier stage of the types on offer, else the base model."""
        if written is not None and written.stage is not None:
            return StageOutput(written.stage)
        if written is not None and written.source is not None:
            return OutsideModel(f"{self._stage.name}.{role}", written.source)
        for stage in self._stages:
            if stage.type in offered:
                return StageOutput(stage.name)
        if not has_fallback:
            raise ValueError(f"stage {self._stage.name} has no earlier stage for its input {role}")
        return OutsideModel(BASE_MODEL_KEY, self._spec.model.source)


def list_earlier(spec: RLHFJobSpec, stage: Stage) -> list[Stage]:
    """The stages written before this one, nearest first."""
    position = next(i for i, candidate in enumerate(spec.stages) if candidate.name == stage.name)
    return list(reversed(spec.stages[:position]))


def _nearest_sft_with_held_out_rows(spec: RLHFJobSpec, stage: Stage) -> Stage | None:
    for candidate in list_earlier(spec, stage):
        if candidate.sft is not None and candidate.sft.eval_fraction > 0:
            return candidate
    return None
