"""Rule P4 (check A8): whitening over the mask, on one rank and on two. Oracle: the `statistics` module on plain lists."""

import statistics

import pytest
import torch

from rlhf_trainer.rl.whitening import whiten
from tests.oracle import mutants
from tests.oracle.ranks import on_two_ranks
from tests.oracle.support import a_mask, close, must_fail, names, noise, with_garbage


def check_whiten(implementation):
    for seed in range(4):
        mask, x = a_mask(seed=seed), noise(5, 7, seed=seed, scale=3.0) + 5
        kept = x[mask.bool()].double().tolist()
        mean, deviation = statistics.fmean(kept), statistics.stdev(kept)
        wanted = torch.where(mask.bool(), (x.double() - mean) / deviation, 0.0)
        close(implementation(x, mask), wanted, 1e-5)
        close(implementation(x, mask, shift_mean=False), torch.where(mask.bool(), wanted + mean, 0.0), 1e-5)


@pytest.mark.rule("P4", source="Huang et al. 2024, arXiv:2403.17031, section 3")
def test_whiten():
    check_whiten(whiten)


@pytest.mark.parametrize(**names(mutants.WHITEN))
@pytest.mark.mutant("P4")
def test_the_check_catches(mutant):
    must_fail(check_whiten, mutant)


def test_garbage_in_padding_changes_nothing():
    mask, x = a_mask(), noise(5, 7)
    assert torch.equal(whiten(x, mask), whiten(with_garbage(x, mask), mask))


@pytest.mark.parametrize(("mask", "wanted"), [([0, 0, 0], [0.0, 0, 0]), ([0, 1, 0], [0.0, 0, 0])], ids=["no element", "one element"])
def test_fewer_than_two_elements_are_centred_only(mask, wanted):
    assert whiten(torch.tensor([[1.0, 7.0, 3.0]]), torch.tensor([mask])).tolist() == [wanted]


def test_equal_elements_stay_finite():
    assert whiten(torch.full((2, 3), 4.0), torch.ones(2, 3)).abs().max() == 0


@pytest.mark.rule("P4", "P20")
def test_two_ranks_count_as_one():
    mask, x = a_mask(b=6), noise(6, 7) + torch.arange(6)[:, None]
    scores = [noise(5, seed=3) * 4 + 1, noise(8, seed=4)]
    found = on_two_ranks("both", [(x[r::2], mask[r::2], scores[0][r::2], scores[1][r::2]) for r in range(2)])

    together = whiten(x, mask)
    for rank in range(2):
        torch.testing.assert_close(found[rank][:-3].view(3, 7).float(), together[rank::2], rtol=1e-6, atol=1e-6)
    alone = whiten(x[0::2], mask[0::2])
    assert (alone - together[0::2]).abs().max() > 0.1, "the mutant (statistics of one rank) must be visible in this case"

    everything = torch.cat(scores).double().tolist()  # the running statistics of rule P20
    for rank in range(2):
        assert found[rank][-3:].tolist() == pytest.approx([13, statistics.fmean(everything), statistics.stdev(everything)])
