"""What Prepare fetches: each model once, each dataset with the tokenizer and the length of the stage that reads it."""

from rlhf_api.job import RLHFJobSpec
from rlhf_api.preparation import prepare_config
from rlhf_api.run_config import PrepareConfig
from tests.support.manifests import REMOVE, chat_7b


def prepared(changes: dict[str, object] | None = None) -> PrepareConfig:
    return prepare_config(RLHFJobSpec.from_wire(chat_7b(changes)["spec"]), allow_private_addresses=False)


def test_the_base_model_is_fetched_once() -> None:
    assert [request.key for request in prepared().models] == ["model"]


def test_models_from_outside_are_fetched_where_they_are_named() -> None:
    config = prepared({"spec.stages[2].ppo.reward": {"source": {"uri": "s3://models/rm"}}})
    assert [(request.key, request.source.uri) for request in config.models] == [
        ("model", "hf://org/base-7b"),
        ("ppo.reward", "s3://models/rm"),
    ]


def test_a_base_model_that_no_stage_uses_is_not_fetched() -> None:
    config = prepared({"spec.stages[0].sft.init": {"source": {"uri": "s3://models/other"}}})
    assert [request.key for request in config.models] == ["sft.init"]
    assert {request.tokenizer for request in config.datasets} == {"sft.init"}


def test_datasets_carry_the_settings_of_their_stage() -> None:
    rows = {request.key: request for request in prepared({"spec.stages[0].sft.lossOn": "all"}).datasets}
    assert {key: (request.purpose, request.max_length, request.eval_fraction) for key, request in rows.items()} == {
        "sft.dataset": ("conversations", 4096, 0.01),
        "rm.dataset": ("preference", 2048, 0.05),
        "ppo.prompts": ("prompts", 1024, 0.0),
        "ppo.pretrainDataset": ("conversations", 1024 + 1024, 0.0),
    }
    assert rows["sft.dataset"].loss_on == "all"
    assert {key: request.answer_length for key, request in rows.items() if request.answer_length} == {"ppo.prompts": 1024}
    assert {request.tokenizer for request in rows.values()} == {"model"}


def test_rows_of_the_gate_are_as_long_as_those_of_the_nearest_sft() -> None:
    config = prepared({"spec.stages[3].quantize.evalDataset": {"uri": "s3://a/b"}})
    assert config.datasets[-1].key == "nf4.evalDataset"
    assert config.datasets[-1].max_length == 4096


def test_a_gate_without_any_sft_has_the_default_length() -> None:
    lone = {"name": "nf4", "type": "Quantize", "quantize": {"evalDataset": {"uri": "s3://a/b"}}}
    config = prepared({"spec.stages": [lone]})
    assert [(request.key, request.max_length) for request in config.datasets] == [("nf4.evalDataset", 2048)]


def test_what_the_profile_and_the_job_say_is_passed_on() -> None:
    config = prepare_config(RLHFJobSpec.from_wire(chat_7b({"spec.model.chatTemplate": REMOVE})["spec"]), allow_private_addresses=True)
    assert config.allow_private_addresses
    assert config.chat_template == "auto"
