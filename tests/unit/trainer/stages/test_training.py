"""SFT, RewardModel and PPO in this process, on a model of two layers: the rules that need a whole stage to be seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf_api.run_config import InputRef
from rlhf_trainer.data.order import order
from rlhf_trainer.errors import ConfigError, DataError, Diverged, GateFailed, InputError, InternalError, Preempted
from rlhf_trainer.models import export, load
from rlhf_trainer.models.heads import ScoreModel, last_token
from rlhf_trainer.rollout.generate import position_ids
from rlhf_trainer.run import Run
from rlhf_trainer.stages import evaluate, experience, ppo, ppo_models, reward, setup, sft
from rlhf_trainer.state import manifest
from rlhf_trainer.strategy import select
from tests.support.training import STOP, Workshop, conversations, preferences


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A volume on which SFT and RewardModel have finished."""
    made = Workshop(tmp_path_factory.mktemp("job"))
    sft.run(made.sft(maxSteps=3))
    reward.run(made.reward(maxSteps=3, minAccuracy=0))
    return made


def weights(run: Run, folder: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run.output / folder / "model.safetensors")


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]


def assert_equal_weights(one: Run, other: Run, folder: str = "model") -> None:
    first, second = weights(one, folder), weights(other, folder)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


class StopAfter:
    """A stop request that comes after so many looks at the flag: the loop looks once at the end of every step."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def attempt(shop: Workshop, stage: str, number: int, resume_from: list[str] | None = None) -> tuple[Callable[[Run], Any], Run]:
    """One attempt of a stage of four steps, with everything that keeps state switched on."""
    extra = {"run": {"resumeFrom": resume_from or [], "checkpoint": {"everySteps": 1, "everySeconds": 900, "keep": 9}}}
    if stage == "sft":
        return sft.run, shop.sft(attempt=number, epochs=2, maxSteps=4, **extra)
    if stage == "rm":
        return reward.run, shop.reward(attempt=number, epochs=2, maxSteps=4, minAccuracy=0, **extra)
    ptx = {"ptxCoefficient": 0.1, "pretrainDataset": {"uri": "pvc://c/d"}}
    kl = {"controller": "adaptive", "target": 2, "horizon": 100}
    return ppo.run, shop.ppo(attempt=number, steps=4, emaDecay=0.5, criticWarmupSteps=1, kl=kl, **ptx, **extra)


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
@pytest.mark.rule("C1", "C5", "C7", "P9", "P13", "P17", "P18")
def test_a_stopped_stage_resumes_to_the_same_bits(shop: Workshop, stage: str) -> None:
    run, straight = attempt(shop, stage, 21)
    run(straight)
    _, stopped = attempt(shop, stage, 22)
    with pytest.raises(Preempted, match="step 2"):
        run(replace(stopped, stop=StopAfter(1)))  # type: ignore[arg-type]  # only `is_set` is read
    assert not (stopped.output / "manifest.json").exists()
    _, resumed = attempt(shop, stage, 23, [f"stages/{stage}/r22/checkpoints"])
    result = run(resumed)
    assert_equal_weights(straight, resumed)
    if stage == "ppo":
        assert_equal_weights(straight, resumed, "critic")
    assert result.step == 4
    assert [line["step"] for line in lines(resumed) if "grad_norm" in line or "critic_grad_norm" in line] == [1, 2, 3, 4]


@pytest.mark.rule("P9")
def test_ppo_resumes_after_prepare_ran_again_but_not_with_another_reward_model(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    sft.run(shop.sft(maxSteps=1))
    reward.run(shop.reward(maxSteps=1, minAccuracy=0))
    _, stopped = attempt(shop, "ppo", 1)
    with pytest.raises(Preempted):
        ppo.run(replace(stopped, stop=StopAfter(1)))  # type: ignore[arg-type]  # only `is_set` is read
    shop.prepare(attempt=2)
    run, resumed = attempt(shop, "ppo", 2, ["stages/ppo/r1/checkpoints"])
    assert run(resumed).step == 4
    reward.run(shop.reward(attempt=2, maxSteps=2, minAccuracy=0))
    run, other = attempt(shop, "ppo", 3, ["stages/ppo/r1/checkpoints"])
    with pytest.raises(InputError, match="other inputs: critic, reward"):
        run(other)


@pytest.mark.rule("F6")
def test_sft_lowers_the_loss_and_measures_the_base_model_first(shop: Workshop) -> None:
    result = sft.run(run := shop.sft(attempt=2, epochs=4))
    assert "health" not in lines(run)[0]  # the base model is no patient
    assert "base_exact_match" in lines(run)[0]
    assert "exact_match" not in lines(run)[0]  # nor what the stage has reached
    assert result.metrics["eval_loss"] < result.metrics["base_eval_loss"]
    assert {"exact_match", "exact_match_en", "exact_match_zh", "exact_match_sampled", "refusal_fraction"} <= result.metrics.keys()
    assert result.step == 4 * 3  # 24 rows in windows of 8
    assert manifest.verify(run.output, result.output_digest).kind == "output"


@pytest.mark.parametrize("settings", [{"packing": False}, {"packing": True, "maxLength": 32}], ids=["unpacked", "longer packs"])
@pytest.mark.parametrize("micro_batch", [1, 8])
@pytest.mark.rule("F1", "D7")
def test_sft_takes_the_same_steps_however_its_rows_are_batched(shop: Workshop, settings: dict[str, Any], micro_batch: int) -> None:
    plan = {"strategy": "plain", "microBatchSize": micro_batch, "gradientCheckpointing": micro_batch == 1}
    expected = shop.sft(attempt=30, maxSteps=3)
    if not (expected.output / "manifest.json").exists():
        sft.run(expected)
    found = shop.sft(attempt=31 + micro_batch + 10 * len(settings), maxSteps=3, run={"plan": plan}, **settings)
    sft.run(found)
    for name, tensor in weights(expected).items():
        torch.testing.assert_close(weights(found)[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.rule("R5", "O3")
def test_the_reward_model_is_normalised_on_disk(shop: Workshop) -> None:
    reward.run(run := shop.reward(attempt=2, maxSteps=3, minAccuracy=0))
    assert_normalised(run)


@pytest.mark.rule("R5")
def test_a_reward_model_of_a_reward_model_is_normalised_too(shop: Workshop) -> None:
    """Its scores begin with the mean of the earlier one taken off, and its file must say the sum of both."""
    settings: dict[str, Any] = {"maxSteps": 1, "minAccuracy": 0, "learningRate": 1e-9}
    result = reward.run(given := shop.reward(attempt=5, **settings))
    for number, normalize in ((6, True), (7, False)):
        run = shop.reward(attempt=number, normalize=normalize, **settings)
        inputs = {"init": InputRef(path=f"{run.config.directory[:-1]}5/output", digest=result.output_digest)}
        reward.run(run := replace(run, config=run.config.model_copy(update={"inputs": inputs})))
        assert setup.score_mean(run.output / "model") == pytest.approx(setup.score_mean(given.output / "model"), rel=1e-3)
        assert_normalised(run)


def assert_normalised(run: Run) -> None:
    """The scores of all training answers, by the files alone, have mean 0 and deviation 1."""
    directory = run.output / "model"
    module = ScoreModel(load.load_score_model(directory, torch.float32), mean=setup.score_mean(directory))
    scores = []
    for row in preferences(24):
        for ids in (row.chosen_ids, row.rejected_ids):
            tokens = torch.tensor([ids.tolist()])
            mask = torch.ones_like(tokens)
            with torch.no_grad():
                scores.append(float(last_token(module(tokens, mask, position_ids(mask)), mask)))
                assert float(module.hf(tokens).logits) - module.mean == pytest.approx(scores[-1], abs=1e-5)  # rule R2
    found = torch.tensor(scores, dtype=torch.float64)
    assert float(found.mean()) == pytest.approx(0, abs=1e-4)
    assert float(found.std()) == pytest.approx(1, abs=1e-4)


@pytest.mark.rule("O8", "R6")
def test_a_missed_gate_keeps_the_output(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward.Stage, "evaluate", lambda self, *_: {"accuracy": 0.5})
    run = shop.reward(attempt=3, maxSteps=1, minAccuracy=0.6)
    with pytest.raises(GateFailed, match="minAccuracy"):
        reward.run(run)
    assert manifest.verify(run.output).metrics["accuracy"] == 0.5


def test_equal_scores_cannot_be_normalised(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward.Stage, "_scores", lambda self, rows: [{"chosen": 1.0, "rejected": 1.0} for _ in rows])
    monkeypatch.setattr(reward.Stage, "evaluate", lambda self, *_: {})
    with pytest.raises(DataError, match="same score"):
        reward.run(shop.reward(attempt=4, maxSteps=1))


@pytest.mark.rule("P5", "P9", "P16", "G3")
def test_ppo_starts_where_its_papers_say(shop: Workshop) -> None:
    ppo.run(run := shop.ppo(attempt=2, steps=2, criticWarmupSteps=1))
    first, second = (line for line in lines(run) if "critic_grad_norm" in line)
    assert first["kl_mean"] == first["kl_k3"] == 0.0  # rule P9: the policy is its own reference
    assert first["sampling_mismatch"] < 1e-4  # rule G3
    assert "policy_loss" not in first  # rule P16: the critic learns alone
    assert second["kl_mean"] == 0.0  # and so the policy has not moved
    assert second["first_ratio_deviation"] == 0.0  # rule P5
    assert {
        "tokens_per_second",
        "kl_coef",
        "entropy",
        "reward_mean",
        "answer_tokens_mean",
        "eos_fraction",
        "vf_explained_var",
    } <= second.keys()


@pytest.mark.rule("P13")
def test_the_kl_coefficient_waits_for_the_policy_to_move(shop: Workshop) -> None:
    """Adaptive control of a KL that is 0 by construction would have loosened the penalty by a fifth a rollout."""
    kl = {"controller": "adaptive", "coefficient": 0.1, "target": 2, "horizon": 8}
    ppo.run(run := shop.ppo(attempt=80, steps=3, criticWarmupSteps=2, kl=kl))
    coefficients = [line["kl_coef"] for line in lines(run) if "critic_grad_norm" in line]
    assert coefficients == [0.1, 0.1, pytest.approx(0.08)]


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_samples_of_ppo_tell_what_the_reward_model_and_the_reference_think(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    """Recomputed row by row through transformers, from the models on disk and the tokens that were generated."""
    shown: list[evaluate.Answer] = []
    ours = evaluate.Examiner.answers

    def answers(self: evaluate.Examiner, model: Any, rows: Any, *, greedy: bool) -> list[evaluate.Answer]:
        found = ours(self, model, rows, greedy=greedy)
        shown[:] = found if greedy else shown
        return found

    monkeypatch.setattr(evaluate.Examiner, "answers", answers)
    plan = {"strategy": "plain", "microBatchSize": micro_batch, "gradientCheckpointing": False}
    ppo.run(run := shop.ppo(attempt=60 + micro_batch, steps=3, learningRate=1e-2, normalizeReward=True, run={"plan": plan}))
    samples = [json.loads(line) for line in (run.directory / "samples.jsonl").read_text().splitlines()]
    last = [line for line in samples if line["step"] == 3]
    assert [line["row"] for line in last] == [f"c9-{i}" for i in range(6)]
    score_directory = shop.root / run.config.inputs["reward"].path / "model"
    score_model = ScoreModel(load.load_score_model(score_directory, torch.float32), mean=setup.score_mean(score_directory))
    policy = load.load_model(run.output / "model", torch.float32)
    reference = load.load_model(shop.root / run.config.inputs["policy"].path / "model", torch.float32)
    for line, answer in zip(last, shown, strict=True):
        prompt = answer.row.prompt_ids.tolist()
        tokens = torch.tensor([prompt + answer.ids])
        mask = torch.ones_like(tokens)
        with torch.no_grad():
            score = float(last_token(score_model(tokens, mask, position_ids(mask)), mask))
            drift = sum(log_prob_of(policy, tokens, len(prompt)) - log_prob_of(reference, tokens, len(prompt)))
        assert line["score"] == pytest.approx(score, abs=1e-4)
        assert line["kl"] == pytest.approx(float(drift), abs=1e-4)
        assert line["stop_reason"] == ("stop" if answer.ids[-1] == STOP else "length")
    raw, normalized = ([line[name] for line in last] for name in ("score", "score_normalized"))
    assert sorted(range(6), key=raw.__getitem__) == sorted(range(6), key=normalized.__getitem__)
    assert raw != normalized
    assert any(abs(line["kl"]) > 1e-3 for line in last)


def log_prob_of(model: Any, tokens: torch.Tensor, num_prompt: int) -> torch.Tensor:
    """Of each token after the prompt."""
    log_probs = model(tokens).logits[0, :-1].log_softmax(dim=-1)
    return log_probs.gather(1, tokens[0, 1:, None])[num_prompt - 1 :, 0]


@pytest.mark.rule("P4")
def test_advantages_are_reported_as_they_were_before_whitening(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    ours = experience._whiten_together

    def watched(batches: Any) -> None:
        seen.append(torch.cat([batch.advantages[batch.mask.bool()] for batch in batches]))
        ours(batches)

    monkeypatch.setattr(experience, "_whiten_together", watched)
    ppo.run(run := shop.ppo(attempt=65, steps=2))
    steps = [line for line in lines(run) if "critic_grad_norm" in line]
    for line, advantages in zip(steps, seen, strict=True):
        assert line["advantage_mean"] == pytest.approx(float(advantages.mean()), abs=1e-5)
        assert line["advantage_std"] == pytest.approx(float(advantages.std(correction=0)), rel=1e-4)
        assert line["peak_host_rss_bytes"] > 10_000_000


@pytest.mark.rule("P17")
def test_ppo_without_ptx_is_bit_equal_to_ppo_that_was_given_no_rows(shop: Workshop) -> None:
    ppo.run(without := shop.ppo(attempt=3, steps=2))
    ppo.run(with_rows := shop.ppo(attempt=4, steps=2, pretrainDataset=None, ptxCoefficient=0.0))
    assert_equal_weights(without, with_rows)


@pytest.mark.rule("P15")
def test_micro_batches_do_not_change_what_ppo_learns(shop: Workshop) -> None:
    for number, size in ((5, 1), (6, 8)):
        plan = {"strategy": "plain", "microBatchSize": size, "gradientCheckpointing": size == 1}
        ppo.run(shop.ppo(attempt=number, steps=2, run={"plan": plan}))
    for name, tensor in weights(shop.ppo(attempt=5)).items():
        torch.testing.assert_close(weights(shop.ppo(attempt=6))[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.rule("P19")
def test_a_policy_that_runs_away_is_stopped(shop: Workshop) -> None:
    with pytest.raises(Diverged, match=r"ppo\.maxKl"):
        ppo.run(shop.ppo(attempt=7, steps=20, learningRate=0.5, maxKl=0.5, clip=1.0))


def test_as_many_rollouts_as_warm_up_train_no_policy(shop: Workshop) -> None:
    with pytest.raises(ConfigError, match=r"criticWarmupSteps: 2 must be below the number of rollouts, 2"):
        ppo.run(shop.ppo(attempt=8, steps=2, criticWarmupSteps=2))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.rule("O2", "P9")
def test_lora_goes_through_all_stages(tmp_path: Path) -> None:
    lora = {"precision": "fp32", "lora": {"rank": 2, "alpha": 4}}
    made = Workshop(tmp_path, model=lora)
    sft.run(first := made.sft(maxSteps=2))
    reward.run(second := made.reward(maxSteps=2, minAccuracy=0))
    result = ppo.run(third := made.ppo(steps=2))
    for run in (first, second, third):
        assert (run.output / "adapter" / "adapter_config.json").is_file()
        assert not any("lora" in name for name in weights(run))
    assert result.metrics["kl_mean"] != 0.0
    assert next(line for line in lines(third) if "critic_grad_norm" in line)["kl_mean"] == 0.0


def lm_loss_of(directory: Path, ids: list[int]) -> torch.Tensor:
    """Mean cross-entropy of the answers of some rows, row by row through transformers: no packing, no padding."""
    from transformers import AutoModelForCausalLM

    model, rows = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), conversations(24)
    total, num_labels = torch.zeros(()), 0
    for row in (rows[i] for i in ids):
        tokens = torch.tensor([row.input_ids.tolist()])
        is_label = torch.tensor(row.loss_mask[1:].astype(bool))
        logits = model(tokens).logits[0, :-1][is_label]
        total = total + torch.nn.functional.cross_entropy(logits, tokens[0, 1:][is_label], reduction="sum")
        num_labels += int(is_label.sum())
    loss = total / num_labels
    loss.backward()
    loss.gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    return loss


@pytest.mark.rule("F2", "F1", source="transformers: cross-entropy row by row")
def test_a_short_last_window_is_divided_by_its_own_labels(shop: Workshop) -> None:
    sft.run(run := shop.sft(attempt=40, globalBatchSize=10, maxSteps=3, learningRate=1e-12))
    found = [line["loss"] for line in lines(run) if "grad_norm" in line]
    shuffled = order(42, 0, 24).tolist()
    for step, window in enumerate((shuffled[:10], shuffled[10:20], shuffled[20:])):
        assert found[step] == pytest.approx(float(lm_loss_of(shop.root / "sources" / "model", window).detach()), rel=1e-5)


@pytest.mark.rule("P10", source="Stiennon et al. 2020, arXiv:2009.01325, appendix G.1; Ouyang et al. 2022, appendix C.4")
def test_the_critic_starts_as_the_reward_model(shop: Workshop) -> None:
    run = shop.ppo(attempt=40, steps=2)
    ids = torch.tensor([[1, 9, 4, 5]])
    arguments = (ids, torch.ones_like(ids), torch.arange(4)[None])

    def critic_and_reward(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
        config: Any = run.config.config
        models = ppo_models.build_models(run, config, select.build(run), num_rows=24, total_steps=2)
        return models.critic.model(*arguments).detach(), models.reward.model(*arguments).detach()

    values, scores = critic_and_reward(run)
    assert torch.equal(values, scores)
    assert float(scores.abs().max()) > 0
    inputs = run.config.inputs | {"critic": run.config.inputs["policy"]}
    values, _ = critic_and_reward(replace(run, config=run.config.model_copy(update={"inputs": inputs})))
    assert torch.equal(values, torch.zeros_like(values))


@pytest.mark.rule("P17", source="Ouyang et al. 2022, arXiv:2203.02155, eq. 2")
def test_ptx_adds_its_share_of_the_sft_loss(shop: Workshop) -> None:
    """|g + c·h|² at c = 0, 1, 2 gives |h|: it must be the norm of the SFT gradient, computed row by row."""
    squares, losses = [], []
    for coefficient in (0.0, 1.0, 2.0):
        ptx = {"ptxCoefficient": coefficient, "pretrainDataset": {"uri": "pvc://c/d"} if coefficient else None}
        ppo.run(run := shop.ppo(attempt=41 + int(coefficient), steps=1, minibatchSize=8, **ptx))
        line = next(line for line in lines(run) if "grad_norm" in line)
        squares.append(line["grad_norm"] ** 2)
        losses.append(line.get("ptx_loss"))
    expected = lm_loss_of(shop.root / run.config.inputs["policy"].path / "model", order(42, 0, 24).tolist()[:8])
    assert losses[1:] == [pytest.approx(float(expected.detach()), rel=1e-5)] * 2
    assert (squares[2] - 2 * squares[1] + squares[0]) / 2 == pytest.approx(float(expected.gradient.square().sum()), rel=1e-3)


@pytest.mark.rule("G3", "T9")
@pytest.mark.mutant("G3", of="temperature at rollout only, fp32 and bf16")
def test_a_sampling_mismatch_is_reported_and_two_precisions_are_none(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU generates from an fp32 copy of bf16 weights (rule T9): its single tokens differ by more than fp32 ever would."""
    bf16 = {"run": {"model": {"precision": "bf16"}}, "steps": 1, "temperature": 1.5}
    ppo.run(sound := shop.ppo(attempt=50, **bf16))
    assert next(line for line in lines(sound) if "kl_mean" in line)["sampling_mismatch"] > 1e-3
    assert "SamplingMismatch" not in events(sound)
    ours = experience.log_probs
    monkeypatch.setattr(experience, "log_probs", lambda model, batch, _, **more: ours(model, batch, 1.0, **more))
    for number, settings in ((51, bf16), (52, {"steps": 1, "temperature": 1.5})):
        ppo.run(broken := shop.ppo(attempt=number, **settings))
        assert "SamplingMismatch" in events(broken)


def events(run: Run) -> str:
    path = run.directory / "events.jsonl"
    return path.read_text() if path.is_file() else ""


@pytest.mark.rule("O4")
def test_an_output_that_is_not_what_was_trained_is_refused(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    write = export.write_weights
    monkeypatch.setattr(export, "write_weights", lambda path, tensors: write(path, ((name, tensor * 1.5) for name, tensor in tensors)))
    with pytest.raises(InternalError, match="reloaded, its outputs differ"):
        sft.run(run := shop.sft(attempt=60, maxSteps=1))
    assert not (run.output / "manifest.json").exists()
