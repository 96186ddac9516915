"""Job specs and profiles for tests: what a case is about is an argument, the rest is a small valid default."""

from rlhf_api.job import RLHFJobSpec
from rlhf_api.profile import ProfileSpec

DATASET = {"uri": "builtin://datasets/tiny-chat-sft"}
PROMPTS = {"uri": "builtin://datasets/tiny-chat-prompts"}
PAIRS = {"uri": "builtin://datasets/tiny-chat-preference"}

Wire = dict[str, object]


def a_spec(source: str = "builtin://models/tiny-llama", **changes: object) -> RLHFJobSpec:
    """A job spec on one CPU process; keyword arguments replace fields of `spec`, `model` is merged."""
    model: Wire = {"source": {"uri": source}}
    if not source.startswith("builtin://"):
        model["size"] = "7B"
    more = changes.pop("model", {})
    assert isinstance(more, dict)
    wire: Wire = {"topology": {"gpusPerNode": 0}, "storage": {"size": "1Gi"}, "stages": [an_sft()]}
    return RLHFJobSpec.from_wire(wire | changes | {"model": model | more})


def an_sft(name: str = "sft", **block: object) -> Wire:
    """An SFT stage."""
    return {"name": name, "type": "SFT", "sft": {"dataset": DATASET, **block}}


def a_reward_model(name: str = "rm", **block: object) -> Wire:
    """A RewardModel stage."""
    return {"name": name, "type": "RewardModel", "rewardModel": {"dataset": PAIRS, **block}}


def a_ppo(name: str = "ppo", **block: object) -> Wire:
    """A PPO stage; without a reward model before it, `reward` has to name a source."""
    return {"name": name, "type": "PPO", "ppo": {"prompts": PROMPTS, **block}}


def a_profile(*, gpu_gib: int | None = None, memory: str | None = None, **changes: object) -> ProfileSpec:
    """A profile: CPU-only unless `gpu_gib` says how much memory a GPU has; `memory` is that of one GPU's or process's share of the host."""
    wire: Wire = {"image": "registry.example.com/trainer@sha256:" + "0" * 64, "limits": {"maxNodes": 8, "maxGpus": 64}}
    if gpu_gib is not None:
        wire["gpu"] = {"memoryGiB": gpu_gib}
    if memory is not None:
        wire["resources"] = {"perProcess" if gpu_gib is None else "perGpu": {"memory": memory}}
    return ProfileSpec.from_wire(wire | changes)
