"""Edges of the losses; their values and gradients are proven in tests/oracle."""

import pytest
import torch

from rlhf_trainer.rl import advantages, losses, whitening


def test_an_empty_minibatch_has_a_loss_of_zero():
    nothing = torch.zeros(2, 3)
    policy, stats = losses.policy_loss(nothing, nothing, nothing, nothing, 0.2, 0.2)
    value, _ = losses.value_loss(nothing, nothing, nothing, nothing, 0.2)
    assert (policy, value, stats["ratio_max"]) == (0, 0, 0)


def test_a_minibatch_without_columns_has_a_loss_of_zero():
    nothing = torch.zeros(2, 0)
    policy, stats = losses.policy_loss(nothing, nothing, nothing, nothing, 0.2, 0.2)
    assert (policy, stats["ratio_max"]) == (0, 0)
    assert advantages.gae(nothing, nothing, nothing, 1.0, 1.0)[0].shape == (2, 0)
    assert whitening.whiten(nothing, nothing).shape == (2, 0)


def test_dual_clip_is_above_one():
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"dual_clip: 0\.5 must be above 1"):
        losses.policy_loss(x, x, x, x, 0.2, 0.2, 0.5)


def test_a_transposed_batch_is_refused():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="shapes"):
        losses.policy_loss(x, x, x.T, x, 0.2, 0.2)
    with pytest.raises(ValueError, match="shapes"):
        losses.value_loss(x, x.T, x, x, 0.2)
    with pytest.raises(ValueError, match="shapes"):
        losses.pairwise_loss(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1))  # would broadcast to nine pairs
    with pytest.raises(ValueError, match="shapes"):
        losses.lm_loss(torch.zeros(2, 4, 5), torch.zeros(2, 3, dtype=torch.int64), 1)


def test_one_margin_for_all_pairs_may_be_a_scalar():
    chosen, rejected = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0])
    expected = losses.pairwise_loss(chosen, rejected, torch.full((2,), 0.5))
    assert losses.pairwise_loss(chosen, rejected, torch.tensor(0.5)) == losses.pairwise_loss(chosen, rejected, 0.5) == expected


@pytest.mark.parametrize("count", [8, torch.tensor(8)])
def test_pairs_are_divided_by_those_of_the_global_batch(count):
    chosen, rejected = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0])
    part = losses.pairwise_loss(chosen, rejected, num_global=count)
    assert part.item() == pytest.approx(losses.pairwise_loss(chosen, rejected).item() / 4)


def test_labels_are_divided_by_those_of_the_global_batch():
    logits, labels = torch.randn(1, 3, 5), torch.tensor([[1, 2, 3]])
    assert losses.lm_loss(logits, labels, torch.tensor(4)).item() == pytest.approx(losses.lm_loss(logits, labels, 1).item() / 4)
