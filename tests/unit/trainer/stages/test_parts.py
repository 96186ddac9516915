"""The small parts of the stages: facts, tallies, averages, pair metrics, cards, step counts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf_api.inputs import Dataset
from rlhf_api.ppo import PPO
from rlhf_api.stages import Quantize, RewardModel
from rlhf_trainer.data.store import open_dataset, write_dataset
from rlhf_trainer.errors import DataError, GateFailed, InputError
from rlhf_trainer.stages import outputs, ppo, quantize, reward, setup
from rlhf_trainer.stages.card import Card
from rlhf_trainer.stages.ema import Ema
from rlhf_trainer.stages.evaluate import affordable_rows, choose_rows
from rlhf_trainer.stages.facts import Facts
from rlhf_trainer.stages.ppo_models import num_updates
from rlhf_trainer.stages.tally import Tally
from rlhf_trainer.strategy.world import World
from tests.support.runs import a_run
from tests.support.training import conversations

ALONE = World(0, 1, torch.device("cpu"))


@pytest.mark.rule("P9", "C1")
def test_facts_survive_a_resume_and_refuse_other_inputs() -> None:
    facts = Facts({"base_exact_match": 0.1}, pinned={"policy": "sha256:a"})
    facts.add({"exact_match": 0.5})
    again = Facts(pinned={"policy": "sha256:a"})
    again.restore(facts.state())
    assert again.metrics == {"base_exact_match": 0.1, "exact_match": 0.5}
    with pytest.raises(InputError, match="other inputs: policy"):
        Facts(pinned={"policy": "sha256:b"}).restore(facts.state())


def test_a_tally_weighs_items_alike() -> None:
    tally = Tally()
    tally.add("length", 10, 2)
    tally.add("length", 2, 2)
    tally.add_means({"clip": 0.5}, 4)
    tally.add("never", 0.0, 0)
    tally.highest("ratio", 1.0)
    tally.highest("ratio", torch.tensor(3.0))
    assert tally.over(ALONE) == {"length": 3.0, "clip": 0.5, "ratio": 3.0}


@pytest.mark.rule("P18", source="Polyak & Juditsky 1992; closed form")
def test_an_average_is_the_closed_form_after_k_steps() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema = Ema(module, decay=0.9)
    expected = 1.0
    for value in (2.0, 3.0, 5.0):
        with torch.no_grad():
            module.weight.fill_(value)
        ema.update(module)
        expected = 0.9 * expected + 0.1 * value
    restored = Ema(module, decay=0.9)
    restored.load_state(dict(ema.state()).__getitem__)
    restored.copy_to(module)
    assert float(module.weight.detach()) == pytest.approx(expected)


PAIRS: list[dict[str, Any]] = [
    {"chosen": 2.0, "rejected": 1.0, "source": "a", "chosen_tokens": 4, "rejected_tokens": 2},
    {"chosen": 0.0, "rejected": 0.0, "source": "a", "chosen_tokens": 2, "rejected_tokens": 2},
    {"chosen": 0.0, "rejected": 3.0, "source": "b", "chosen_tokens": 2, "rejected_tokens": 5},
]


@pytest.mark.rule("R6")
def test_pair_metrics_count_ties_half_and_tell_sources_apart() -> None:
    metrics = reward.pair_metrics(PAIRS)
    assert metrics["accuracy"] == pytest.approx(0.5)
    assert metrics["accuracy_a"] == pytest.approx(0.75)
    assert metrics["accuracy_b"] == 0.0
    assert metrics["margin"] == pytest.approx(-2 / 3)
    assert metrics["length_correlation"] > 0.9


@pytest.mark.rule("R6")
def test_the_largest_sources_have_a_metric_with_a_legal_name() -> None:
    """`web.a` and `web a` cannot be told apart by a metric's name: they are one."""
    sources = [*(f"s{n}" for n in range(20)), "web.a", "web a", *(["s3"] * 2)]
    metrics = reward.pair_metrics([PAIRS[0] | {"source": source} for source in sources])
    names = [name.removeprefix("accuracy_") for name in metrics if name.startswith("accuracy_")]
    assert len(names) == reward.MAX_SOURCES
    assert {"web_a", "s3"} <= set(names)


@pytest.mark.rule("R4", "R6")
def test_swapping_the_answers_turns_the_accuracy_round() -> None:
    swapped = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    assert reward.pair_metrics(swapped)["accuracy"] == pytest.approx(1 - reward.pair_metrics(PAIRS)["accuracy"])


def test_pearson_of_something_constant_is_zero() -> None:
    assert reward.pearson(torch.ones(3), torch.arange(3.0)) == 0.0
    assert reward.pearson(torch.arange(3.0), -torch.arange(3.0)) == pytest.approx(-1)


@pytest.mark.rule("R6")
def test_the_gate_names_accuracy_and_limit() -> None:
    config = RewardModel(dataset=Dataset(uri="pvc://c/d"), min_accuracy=0.7)
    with pytest.raises(GateFailed, match=r"minAccuracy: held-out accuracy 0\.500 must be at least 0\.7"):
        reward._check_gate(config, {"accuracy": 0.5})
    reward._check_gate(config, {"accuracy": 0.7})
    reward._check_gate(config.model_copy(update={"min_accuracy": 0.0}), {})


@pytest.mark.rule("R6")
def test_a_gate_that_nothing_can_measure_is_refused_before_the_training() -> None:
    config, without_pairs = RewardModel(dataset=Dataset(uri="pvc://c/d"), min_accuracy=0.7), SimpleNamespace(held_out=[])
    with pytest.raises(DataError, match=r"minAccuracy: 0\.7 needs held-out pairs"):
        reward._check(config, without_pairs)  # type: ignore[arg-type]  # only this field is read
    reward._check(config.model_copy(update={"min_accuracy": 0.0}), without_pairs)  # type: ignore[arg-type]


def test_the_rows_of_the_gate_are_never_training_rows_of_an_earlier_stage(tmp_path: Path) -> None:
    facts = {"stopIds": [2], "padId": 0, "statistics": {}}

    def a_dataset(name: str, **splits: int) -> Any:
        rows = {split: conversations(splits.get(split, 0)) for split in ("train", "eval", "held_out")}
        return open_dataset(tmp_path / name, write_dataset(tmp_path / name, "conversations", rows, facts), "conversations")

    borrowed = Quantize(max_eval_rows=3)
    named = Quantize(max_eval_rows=3, eval_dataset=Dataset(uri="pvc://c/d"))
    with_held_out, without = a_dataset("a", train=4, held_out=9), a_dataset("b", train=6)
    assert [row.row_id for row in quantize.gate_rows(borrowed, with_held_out)] == ["c0-0", "c0-3", "c0-6"]
    assert [row.row_id for row in quantize.gate_rows(named, without)] == ["c0-0", "c0-2", "c0-4"]
    with pytest.raises(DataError, match="0 held-out rows"):
        quantize.gate_rows(borrowed, without)


@pytest.mark.parametrize(
    ("settings", "rows", "steps", "expected"),
    [
        pytest.param(
            {"rollout_batch_size": 8, "minibatch_size": 4, "critic_warmup_steps": 1}, 100, 3, (4, 6), id="warm-up is the critic's alone"
        ),
        pytest.param(
            {"rollout_batch_size": 8, "minibatch_size": 4, "critic_warmup_steps": 0, "epochs_per_rollout": 2},
            100,
            2,
            (8, 8),
            id="epochs multiply",
        ),
        pytest.param(
            {"rollout_batch_size": 8, "minibatch_size": 4, "critic_warmup_steps": 0},
            10,
            4,
            (6, 6),
            id="short last windows have fewer minibatches",
        ),
    ],
)
@pytest.mark.rule("P15", "P16")
def test_optimizer_steps_of_policy_and_critic(settings: dict[str, int], rows: int, steps: int, expected: tuple[int, int]) -> None:
    assert num_updates(PPO(prompts=Dataset(uri="pvc://c/d"), **settings), rows, steps) == expected


def test_measured_rows_are_spread_and_fewer_for_large_models_on_a_cpu() -> None:
    rows = conversations(600)
    assert len(choose_rows(rows, num_parameters=10**6, device="cpu")) == 256
    assert len(choose_rows(rows, num_parameters=270 * 10**6, device="cpu")) == 32
    assert len(choose_rows(rows, num_parameters=270 * 10**6, device="cuda")) == 256
    assert choose_rows(rows, num_parameters=10**6, device="cpu")[-1] is rows[597]
    assert choose_rows([], num_parameters=1, device="cpu") == []


@pytest.mark.parametrize(
    ("limit", "num_parameters", "device", "num_rows"),
    [
        pytest.param(128, 10**6, "cpu", 128, id="a small model"),
        pytest.param(128, 80 * 10**6, "cpu", 64, id="four times as large, a quarter of 256"),
        pytest.param(128, 270 * 10**6, "cpu", 32, id="never fewer than 32"),
        pytest.param(16, 270 * 10**6, "cpu", 16, id="nor more than the limit"),
        pytest.param(128, 7 * 10**9, "cuda", 128, id="a GPU measures all"),
    ],
)
def test_measuring_takes_no_longer_than_training(limit: int, num_parameters: int, device: str, num_rows: int) -> None:
    assert affordable_rows(limit, num_parameters=num_parameters, device=device) == num_rows


def test_a_gate_is_measured_on_more_rows_than_a_glance() -> None:
    assert affordable_rows(1024, num_parameters=270 * 10**6, device="cpu", at_least=256) == 256


def test_answer_tokens_per_second_of_a_whole_rollout() -> None:
    metrics = {"rollout_seconds": 2.0, "score_seconds": 1.0, "update_seconds": 5.0, "answer_tokens_mean": 20.0}
    assert ppo.throughput(metrics, num_answers=16) == {"tokens_per_second": 40.0}


def test_groups_are_consecutive() -> None:
    assert setup.split_evenly([1, 2, 3], 2) == [[1, 2], [3]]


def test_a_score_mean_is_read_from_stage_json(tmp_path: Path) -> None:
    assert setup.score_mean(tmp_path) == 0.0
    (tmp_path / "stage.json").write_text('{"mean": 1.25}')
    assert setup.score_mean(tmp_path) == 1.25


def test_a_card_leaves_out_what_is_unknown() -> None:
    text = Card(title="chat", summary="A model.", metrics={"loss": 0.5}, inputs={}, license="apache-2.0").text()
    assert text.startswith('---\nlibrary_name: transformers\nlicense: "apache-2.0"\n---\n')
    assert "| loss | 0.5 |" in text
    assert "Made from" not in text
    assert "Lineage" not in text


@pytest.mark.parametrize(
    ("found", "expected", "deviation"),
    [
        pytest.param([30.0, -40.0], [30.0, -40.0], 0.0, id="the same"),
        pytest.param([33.0, -36.0], [30.0, -40.0], 0.1, id="one tenth of the logits, large as they are"),
        pytest.param([0.0, 0.3], [0.0, 0.0], 0.3 / 2**0.5, id="a critic of zeros is not divided by"),
    ],
)
def test_deviation_of_what_was_written(found: list[float], expected: list[float], deviation: float) -> None:
    assert outputs.deviation(torch.tensor(found), torch.tensor(expected)) == pytest.approx(deviation)


def test_one_logit_of_many_does_not_fail_an_export() -> None:
    logits = torch.full((200_000,), 20.0)
    rounded = logits.clone()
    rounded[7] += 1.0
    assert outputs.deviation(rounded, logits) < outputs.TOLERANCE[torch.bfloat16] / 100
    assert outputs.deviation(logits * 1.2, logits) > outputs.TOLERANCE[torch.bfloat16]


@pytest.mark.rule("P21", source="Loshchilov & Hutter 2019, arXiv:1711.05101")
def test_adam_has_the_numbers_of_the_job(tmp_path: Path) -> None:
    run = a_run(tmp_path, optimizer={"betas": [0.8, 0.9], "eps": 1e-7})
    block = PPO(prompts=Dataset(uri="pvc://c/d"), weight_decay=0.25)
    found = setup.optimizer_config(run, block, 1e-3, 10)
    assert (found.betas, found.eps, found.weight_decay, found.schedule.peak) == ((0.8, 0.9), 1e-7, 0.25, 1e-3)
    plain = setup.optimizer_config(a_run(tmp_path), block, 1e-3, 10)
    assert (plain.betas, plain.eps) == ((0.9, 0.95), 1e-5)
