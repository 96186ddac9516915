"""experience.py: a rollout becomes rewards and advantages in the order of rule P20, whatever the micro-batches look like."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlhf_api.inputs import Dataset
from rlhf_api.ppo import KL, PPO
from rlhf_trainer.models.heads import LanguageModel
from rlhf_trainer.rl.rewards import RunningMoments
from rlhf_trainer.rollout.generate import GenerateConfig, Generated
from rlhf_trainer.stages import experience
from rlhf_trainer.stages.experience import Answers
from tests.support.training import STOP, a_llama, prompts

SAMPLING = GenerateConfig(max_new_tokens=4, stop_ids=(STOP,), pad_id=0)


def a_config(**changes: Any) -> PPO:
    settings: dict[str, Any] = {"prompts": Dataset(uri="pvc://c/d"), "normalize_reward": False, "kl": KL(coefficient=0.1), **changes}
    return PPO(**settings)


def answered(size: int) -> tuple[list[Any], list[Answers]]:
    """Four prompts with the answers [9 9 STOP], [STOP], [8 8 8 8] (no end), [7 STOP], in micro-batches of `size`."""
    rows = prompts(4)
    tokens = torch.tensor([[9, 9, STOP, 0], [STOP, 0, 0, 0], [8, 8, 8, 8], [7, STOP, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    return rows, experience.micro_batches(rows, Generated(tokens, torch.zeros(4, 4), mask), size, SAMPLING)


def judged(batches: list[Answers]) -> list[Answers]:
    """Judgements that depend on the row only, so that micro-batches can be compared."""
    for batch in batches:
        key = torch.tensor([sum(map(int, row.prompt_ids)) % 7 for row in batch.rows]).float()
        batch.raw_scores = key - 3
        batch.values = (key[:, None] / 10 + torch.arange(batch.tokens.shape[1]) / 5) * batch.mask
        batch.old_log_probs = -(batch.tokens + 1.0).log()
        batch.ref_log_probs = batch.old_log_probs - 0.1 * key[:, None]
        batch.entropy = torch.ones_like(batch.values)
    return batches


def by_row(batches: list[Answers], name: str) -> dict[str, list[float]]:
    found = {}
    for batch in batches:
        for row, values, mask in zip(batch.rows, getattr(batch, name), batch.mask, strict=True):
            found[row.row_id] = values[mask.bool()].tolist() if values.ndim else [float(values)]
    return found


@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_hold_every_answer_once_without_spare_columns(size: int) -> None:
    rows, batches = answered(size)
    assert sorted(row.row_id for batch in batches for row in batch.rows) == sorted(row.row_id for row in rows)
    for batch in batches:
        assert int(batch.mask.any(dim=0).sum()) == batch.mask.shape[1]
        assert batch.attention_mask[:, 0].any(), "a column of padding only"
        assert batch.input_ids.shape[1] == batch.num_prompt + batch.tokens.shape[1]
        for row, has_stop in zip(batch.rows, batch.has_stop.tolist(), strict=True):
            assert has_stop == (row.row_id != rows[2].row_id)


@pytest.mark.parametrize("size", [1, 2])
def test_advantages_do_not_depend_on_micro_batches(size: int) -> None:
    whole, parts = judged(answered(4)[1]), judged(answered(size)[1])
    for batches in (whole, parts):
        experience.set_rewards(batches, a_config(normalize_reward=True), 0.1, RunningMoments())
    for name in ("advantages", "returns"):
        expected, found = by_row(whole, name), by_row(parts, name)
        for row_id, values in expected.items():
            assert found[row_id] == pytest.approx(values, abs=1e-5)


@pytest.mark.rule("P20", "P8")
def test_scores_are_normalised_then_clipped_then_penalised() -> None:
    rows, batches = answered(1)
    judged(batches)
    for batch in batches:
        batch.raw_scores = torch.tensor([100.0]) if batch.rows[0].row_id == rows[2].row_id else torch.tensor([0.0])
    experience.set_rewards(batches, a_config(reward_clip=1.0, missing_eos_penalty=3.0), 0.0, None)
    scores = {batch.rows[0].row_id: float(batch.scores[0]) for batch in batches}
    assert scores[rows[2].row_id] == pytest.approx(1.0 - 3.0)  # clipped to 1 first: the penalty is not clipped away
    assert scores[rows[0].row_id] == 0.0


@pytest.mark.rule("P4")
def test_advantages_are_white_over_the_whole_rollout() -> None:
    batches = judged(answered(2)[1])
    experience.set_rewards(batches, a_config(), 0.1, None)
    flat = torch.cat([batch.advantages[batch.mask.bool()] for batch in batches])
    assert float(flat.mean()) == pytest.approx(0, abs=1e-6)
    assert float(flat.std()) == pytest.approx(1, abs=1e-4)


def test_a_spare_row_counts_for_nothing() -> None:
    rows = prompts(1)
    generated = Generated(torch.tensor([[9, STOP]]), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.int64))
    [spare] = experience.micro_batches(rows, generated, 4, SAMPLING, is_spare=True)
    assert not spare.is_counted.any()
    batches = [*judged(answered(4)[1])]
    alone = [*judged(answered(4)[1])]
    [judged_spare] = judged([spare])
    experience.set_rewards([*batches, judged_spare], a_config(), 0.1, None)
    experience.set_rewards(alone, a_config(), 0.1, None)
    torch.testing.assert_close(batches[0].advantages, alone[0].advantages)


def test_importance_correction_weighs_tokens_by_policy_over_truncated_distribution() -> None:
    plain, corrected = judged(answered(4)[1]), judged(answered(4)[1])
    for batch in corrected:
        batch.sampled_log_probs = batch.old_log_probs + torch.log(torch.tensor(2.0))  # truncation doubled every probability
    experience.set_rewards(plain, a_config(), 0.1, None)
    experience.set_rewards(corrected, a_config(importance_correction=True), 0.1, None)
    torch.testing.assert_close(corrected[0].advantages, plain[0].advantages / 2)


def test_log_probs_are_of_the_answer_at_the_sampling_temperature() -> None:
    hf = a_llama()
    _, [batch] = answered(4)
    found, entropy = experience.log_probs(LanguageModel(hf), batch, 2.0, with_entropy=True)
    logits = hf(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.positions).logits / 2.0
    log_softmax = logits.log_softmax(-1)[:, batch.num_prompt - 1 : -1]
    expected = log_softmax.gather(-1, batch.tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found[batch.mask.bool()], expected[batch.mask.bool()])
    torch.testing.assert_close(entropy[batch.mask.bool()], -(log_softmax.exp() * log_softmax).sum(-1)[batch.mask.bool()])


@pytest.mark.rule("P2")
def test_a_value_is_estimated_before_its_token() -> None:
    _, [batch] = answered(4)

    class Columns(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return torch.arange(input_ids.shape[1]).float().expand(input_ids.shape)

    found = experience.values(Columns(), batch)
    assert found[0].tolist() == [batch.num_prompt - 1 + i for i in range(batch.tokens.shape[1])]
