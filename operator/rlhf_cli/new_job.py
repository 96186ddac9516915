"""The text of a new job file: a few wishes in, commented YAML out. Every result is valid as written (a test tries them all)."""

from dataclasses import dataclass

from rlhf_cli.yaml_values import BOOLEANS_OF_YAML_1_1

UNTIL = ("sft", "rm", "ppo", "nf4", "publish")
"""The stages of a full job in order: a new job has all of them up to the one wished for."""

_COMMENT_COLUMN = 33


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
      epochs: SFT_EPOCHS
      maxLength: SFT_LENGTH         # longest row in tokens; longer rows are dropped and counted
      globalBatchSize: SFT_BATCH   # rows per optimizer step over all processes
SFT_RATE\
""",
    "rm": """\
  - name: rm                 # learn what people prefer: from pairs of answers
    type: RewardModel
    rewardModel:
      # Rows {"prompt": …, "chosen": …, "rejected": …}
      dataset: {uri: "builtin://datasets/tiny-chat-preference"}
      epochs: PAIR_EPOCHS
      maxLength: PAIR_LENGTH
      globalBatchSize: PAIR_BATCH
      minAccuracy: PAIR_GATE      # gate: a weaker reward model stops the job here
PAIR_RATE\
""",
    "ppo": """\
  - name: ppo                # move the SFT model towards what the reward model prefers
    type: PPO
    ppo:
      # Rows {"prompt": …}; conversations lose their last answer
      prompts: {uri: "builtin://datasets/tiny-chat-prompts"}
      steps: ROLLOUTS              # rollouts
      rolloutBatchSize: ANSWERS   # prompts answered per rollout over all processes
      minibatchSize: MINIBATCH      # answers per optimizer step
      maxPromptLength: PROMPT_LENGTH
      maxNewTokens: NEW_TOKENS
      criticWarmupSteps: WARMUP   # rollouts in which only the critic learns
      kl: {coefficient: KL_COST}        # higher = stays closer to the SFT model
PPO_RATE\
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

SETTINGS = {
    "SFT_EPOCHS": ("20", "1"),
    "SFT_LENGTH": ("128", "2048"),
    "SFT_BATCH": ("32", "128"),
    "SFT_RATE": (
        """\
      learningRate: 2e-3     # high, like the epochs: this model begins with random weights
      minLearningRateFraction: 0.05
      gradientCheckpointing: false   # memory is no concern here
""",
        "",
    ),
    "PAIR_EPOCHS": ("2", "1"),
    "PAIR_LENGTH": ("64", "2048"),
    "PAIR_BATCH": ("32", "64"),
    "PAIR_GATE": ("0.8", "0.55"),
    "PAIR_RATE": ("      learningRate: 1e-3\n      minLearningRateFraction: 0.05\n      gradientCheckpointing: false\n", ""),
    "ROLLOUTS": ("40", "50"),
    "ANSWERS": ("128", "64"),
    "MINIBATCH": ("64", "32"),
    "PROMPT_LENGTH": ("64", "1024"),
    "NEW_TOKENS": ("12", "512"),
    "WARMUP": ("2", "5"),
    "KL_COST": ("0.03", "0.05"),
    "PPO_RATE": (
        """\
      learningRate: 3e-4
      criticLearningRate: 1e-3
      pretrainDataset: {uri: "builtin://datasets/tiny-chat-sft"}   # keeps what SFT has taught
      ptxCoefficient: 0.1
      gradientCheckpointing: false
""",
        "",
    ),
}
"""What stands for each capital word: for a builtin model, as in examples/tiny-chat.yaml, which shows that it learns; for any other."""

JOURNEYS = {
    "sft": "supervised fine-tuning",
    "rm": "supervised fine-tuning, then a reward model",
    "ppo": "supervised fine-tuning, a reward model, then PPO",
    "nf4": "supervised fine-tuning, a reward model, PPO, then 4-bit weights",
    "publish": "from a base model to a published 4-bit chat model",
}


def job_text(wishes: Wishes) -> str:
    """The commented job file. A builtin model gets what teaches it to answer within minutes on a laptop."""
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
    stages = "".join(_stage(STAGES[name], wishes, is_tiny) for name in UNTIL[: UNTIL.index(wishes.until) + 1])
    return "".join(_aligned(line) for line in (head + stages).splitlines(keepends=True))


def _aligned(line: str) -> str:
    """A line whose comment begins in the column of the others, where what stands before it leaves room."""
    code, mark, comment = line.partition("  # ")
    return f"{code.rstrip():<{_COMMENT_COLUMN}}{mark}{comment}" if code.strip() and mark else line


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
    for placeholder, (tiny, full) in SETTINGS.items():
        text = text.replace(placeholder, tiny if is_tiny else full)
    return text.replace("NAME", wishes.name)
