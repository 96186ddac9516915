"""The text of a new job file: a few wishes in, commented YAML out. Every result is valid as written (a test tries them all)."""

from dataclasses import dataclass

from rlhf_cli.yaml_values import BOOLEANS_OF_YAML_1_1

UNTIL = ("sft", "rm", "ppo", "nf4", "publish")
"""The stages of a full job in order: a new job has all of them up to the one wished for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked `rlhf new` for."""

    name: str
    model: str
    revision: str | None
    size: str | None
    until: str
    nodes: int
    gpus: int
    lora: bool


HEAD = """\
# {name}: {journey}.
#   rlhf validate FILE      is it correct?
#   rlhf plan FILE          which strategy, how much memory, how many steps?
#   rlhf run FILE{claim}      train it here; on a cluster: kubectl apply -f FILE
# Every field with its default and range: docs/fields.md; on a cluster: kubectl explain rlhfjob.spec --recursive.
apiVersion: rlhf.dev/v1alpha1
kind: RLHFJob
metadata: {{name: {quoted_name}}}
spec:
  model:
    source: {source}
{size}{lora}\
  topology: {{nodes: {nodes}, gpusPerNode: {gpus}}}   # gpusPerNode 0 = CPU only
  strategy: auto             # the simplest that fits; `rlhf plan` shows which
  storage: {{size: {storage}}}       # datasets, checkpoints and outputs of all stages
  stages:
"""

STAGES = {
    "sft": """\
  - name: sft                # learn to answer: from conversations with answers
    type: SFT
    sft:
      # Your data instead: {uri: "pvc://data/sft.jsonl"} with rows {"instruction": …, "output": …} or {"messages": […]}
      dataset: {uri: "builtin://datasets/tiny-chat-sft"}
      epochs: 1
      maxLength: MAX_LENGTH         # longest row in tokens; longer rows are dropped and counted
      globalBatchSize: SFT_BATCH   # rows per optimizer step over all processes
""",
    "rm": """\
  - name: rm                 # learn what people prefer: from pairs of answers
    type: RewardModel
    rewardModel:
      # Rows {"prompt": …, "chosen": …, "rejected": …}
      dataset: {uri: "builtin://datasets/tiny-chat-preference"}
      maxLength: MAX_LENGTH
      globalBatchSize: 64
      minAccuracy: 0.55      # gate: a weaker reward model stops the job here
""",
    "ppo": """\
  - name: ppo                # move the SFT model towards what the reward model prefers
    type: PPO
    ppo:
      # Rows {"prompt": …}; conversations lose their last answer
      prompts: {uri: "builtin://datasets/tiny-chat-prompts"}
      steps: 50              # rollouts
      rolloutBatchSize: 64   # prompts answered per rollout over all processes
      minibatchSize: 32      # answers per optimizer step
      maxPromptLength: PROMPT_LENGTH
      maxNewTokens: NEW_TOKENS
      criticWarmupSteps: 5   # rollouts in which only the critic learns
      kl: {coefficient: 0.05}        # higher = stays closer to the SFT model
""",
    "nf4": """\
  - name: nf4                # 4-bit weights, with a gate on quality
    type: Quantize
    quantize: {method: nf4, maxPerplexityIncrease: 0.1}
""",
    "publish": """\
  - name: publish            # write the finished model where others find it
    type: Publish
    publish:
      destination: {uri: "pvc://models/NAME"}
      modelCard: {license: apache-2.0}
""",
}

JOURNEYS = {
    "sft": "supervised fine-tuning",
    "rm": "supervised fine-tuning, then a reward model",
    "ppo": "supervised fine-tuning, a reward model, then PPO",
    "nf4": "supervised fine-tuning, a reward model, PPO, then 4-bit weights",
    "publish": "from a base model to a published 4-bit chat model",
}


def job_text(wishes: Wishes) -> str:
    """The commented job file. A builtin model gets small sizes, so that the job ends within minutes on a laptop."""
    is_tiny = wishes.model.startswith("builtin://")
    head = HEAD.format(
        name=wishes.name,
        quoted_name=_quoted(wishes.name),
        journey=JOURNEYS[wishes.until],
        claim=claim_options(wishes),
        source=_source(wishes),
        size=f"    size: {wishes.size}                 # drives the memory plan\n" if wishes.size else "",
        lora="    lora: {rank: 16}         # adapters instead of all weights\n" if wishes.lora else "",
        nodes=wishes.nodes,
        gpus=wishes.gpus,
        storage="2Gi" if is_tiny else "200Gi",
    )
    return head + "".join(_stage(STAGES[name], wishes, is_tiny) for name in UNTIL[: UNTIL.index(wishes.until) + 1])


def claim_options(wishes: Wishes) -> str:
    """What `rlhf run` needs to know about the claims of the job, which are directories here; begins with a space unless empty."""
    claims = [wishes.model.removeprefix("pvc://").partition("/")[0]] if wishes.model.startswith("pvc://") else []
    claims += ["models"] if wishes.until == "publish" else []
    return "".join(f" --claim {claim}=DIR" for claim in dict.fromkeys(claims))


def _quoted(name: str) -> str:
    """A name as YAML text. Quotes stand only where a reader of YAML would take the name for something else."""
    return f'"{name}"' if name in BOOLEANS_OF_YAML_1_1 | {"true", "false", "null"} else name


def _source(wishes: Wishes) -> str:
    revision = f', revision: "{wishes.revision}"' if wishes.revision else ""
    return f'{{uri: "{wishes.model}"{revision}}}'


def _stage(text: str, wishes: Wishes, is_tiny: bool) -> str:
    sizes = {"MAX_LENGTH": ("128", "2048"), "SFT_BATCH": ("64", "128"), "PROMPT_LENGTH": ("64", "1024"), "NEW_TOKENS": ("24", "512")}
    for placeholder, (tiny, full) in sizes.items():
        text = text.replace(placeholder, tiny if is_tiny else full)
    return text.replace("NAME", wishes.name)
