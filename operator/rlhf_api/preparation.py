"""What Prepare has to fetch for a job: every model from outside once, every dataset with the tokenizer that its stage will use."""

from collections.abc import Iterator

from rlhf_api.graph import DatasetRef, ModelRef, OutsideModel, datasets_of, inputs_of, list_earlier, origin_of
from rlhf_api.job import RLHFJobSpec
from rlhf_api.run_config import DatasetRequest, ModelRequest, PrepareConfig
from rlhf_api.stages import SFT, RewardModel, Stage, Supervised

_DEFAULT_EVAL_LENGTH = 2048  # of a Quantize stage without an SFT stage before it: the default of sft.maxLength


def prepare_config(spec: RLHFJobSpec, *, allow_private_addresses: bool) -> PrepareConfig:
    """The block of the implicit first stage. Keys are sorted nowhere: models and datasets stand in the order of the file."""
    models: dict[str, ModelRequest] = {}
    datasets: dict[str, DatasetRequest] = {}
    for stage in spec.stages:
        inputs = inputs_of(spec, stage)
        for ref in (*inputs.values(), *(origin_of(spec, ref) for ref in inputs.values())):
            if isinstance(ref, OutsideModel):
                models.setdefault(ref.key, ModelRequest(key=ref.key, source=ref.source))
        for request in _dataset_requests(spec, stage, inputs):
            datasets.setdefault(request.key, request)
    return PrepareConfig(
        models=tuple(models.values()),
        datasets=tuple(datasets.values()),
        chat_template=spec.model.chat_template,
        allow_private_addresses=allow_private_addresses,
    )


def _dataset_requests(spec: RLHFJobSpec, stage: Stage, inputs: dict[str, ModelRef]) -> Iterator[DatasetRequest]:
    found = datasets_of(spec, stage)
    # The first role is the model that reads the rows: init, policy or model.
    tokenizer = origin_of(spec, next(iter(inputs.values()))).key
    for role, ref in found.items():
        if ref.key.startswith(f"{stage.name}."):  # rows of another stage are requested by that stage
            yield _dataset_request(spec, stage, role, ref, tokenizer)


def _dataset_request(spec: RLHFJobSpec, stage: Stage, role: str, ref: DatasetRef, tokenizer: str) -> DatasetRequest:
    block = stage.block
    if isinstance(block, SFT | RewardModel):
        return DatasetRequest(
            key=ref.key,
            dataset=ref.dataset,
            purpose="conversations" if isinstance(block, SFT) else "preference",
            tokenizer=tokenizer,
            max_length=block.max_length,
            overlong=block.overlong,
            max_drop_fraction=block.max_drop_fraction,
            eval_fraction=block.eval_fraction,
            loss_on=block.loss_on if isinstance(block, SFT) else "assistant",
        )
    if stage.ppo is not None:
        is_prompts = role == "prompts"
        return DatasetRequest(
            key=ref.key,
            dataset=ref.dataset,
            purpose="prompts" if is_prompts else "conversations",
            tokenizer=tokenizer,
            max_length=stage.ppo.max_prompt_length + (0 if is_prompts else stage.ppo.max_new_tokens),
            answer_length=stage.ppo.max_new_tokens if is_prompts else 0,
            max_drop_fraction=stage.ppo.max_drop_fraction,
        )
    return DatasetRequest(
        key=ref.key, dataset=ref.dataset, purpose="conversations", tokenizer=tokenizer, max_length=_eval_length(spec, stage)
    )


def _eval_length(spec: RLHFJobSpec, stage: Stage) -> int:
    """Rows of the gate are as long as the rows that the model learned from."""
    blocks = (earlier.sft for earlier in list_earlier(spec, stage))
    nearest: Supervised | None = next((block for block in blocks if block is not None), None)
    return _DEFAULT_EVAL_LENGTH if nearest is None else nearest.max_length
