"""Scores on their way to rewards: last positions, clip, penalty, running moments."""

import statistics

import pytest
import torch

from rlhf_trainer.rl import rewards


def test_last_positions_are_those_of_the_mask():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]])
    assert rewards.last_positions(mask).int().tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]


def test_a_batch_without_positions_has_no_rewards():
    nothing = torch.zeros(2, 0)
    assert rewards.token_rewards(torch.ones(2), nothing, nothing, nothing, 0.1).shape == (2, 0)


def test_one_score_for_each_row():
    with pytest.raises(ValueError, match="shapes"):
        rewards.token_rewards(torch.ones(3), torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(2, 4), 0.1)


@pytest.mark.parametrize(("limit", "wanted"), [(2.0, [-2.0, 0.5, 2.0]), (0.0, [-7.0, 0.5, 7.0])], ids=["clipped", "0 is off"])
def test_clip_scores(limit, wanted):
    assert rewards.clip_scores(torch.tensor([-7.0, 0.5, 7.0]), limit).tolist() == wanted


def test_only_answers_without_a_stop_token_pay():
    assert rewards.penalize_missing_stop(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), 0.7).tolist() == pytest.approx([1.0, 0.3])


def test_running_moments_are_those_of_everything_seen():
    moments, seen = rewards.RunningMoments(), []
    for part in ([1.0, 5.0], [], [2.0], [100.0, 101.0, 99.5]):
        moments.update(torch.tensor(part))
        seen += part
    assert (moments.count, moments.mean, moments.deviation) == pytest.approx((6, statistics.fmean(seen), statistics.stdev(seen)))
    wanted = [(x - statistics.fmean(seen)) / statistics.stdev(seen) for x in (0.0, 50.0)]
    assert moments.normalize(torch.tensor([0.0, 50.0])).tolist() == pytest.approx(wanted)


def test_running_moments_go_on_after_a_resume():
    moments, resumed = rewards.RunningMoments(), rewards.RunningMoments()
    moments.update(torch.tensor([1.0, 2.0, 4.0]))
    resumed.restore(moments.state())
    for one in (moments, resumed):
        one.update(torch.tensor([8.0]))
    assert resumed.state() == moments.state()


@pytest.mark.parametrize("scores", [[], [3.0], [3.0, 3.0, 3.0]], ids=["none", "one", "equal ones"])
def test_too_few_scores_are_only_centred(scores):
    moments = rewards.RunningMoments()
    moments.update(torch.tensor(scores))
    assert moments.deviation == 1
    assert torch.isfinite(moments.normalize(torch.tensor([5.0]))).all()
