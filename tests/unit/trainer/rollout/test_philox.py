"""Numbers that belong to a row. Known answers: kat_vectors of the Random123 library (Salmon et al. 2011), philox4x32, 10 rounds."""

import pytest
import torch

from rlhf_trainer.rollout.philox import philox, row_seed, uniforms

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
@pytest.mark.rule("P14", source="Salmon et al. 2011, Random123 known answers")
def test_known_answers(counter, key, wanted):
    words = philox(tuple(torch.tensor([c]) for c in counter), tuple(torch.tensor([k]) for k in key))
    assert [int(word) for word in words] == wanted


def test_uniforms_are_uniform():
    found = uniforms(torch.arange(2000), 64)
    assert found.min() >= 0
    assert found.max() < 1
    counts = torch.histc(found.float(), 50, 0, 1)
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi_square < 49 + 4 * (2 * 49) ** 0.5
    rows = found - 0.5  # neighbours, in a row and between rows, are independent: correlations within 4 deviations of 0
    assert abs((rows[:, :-1] * rows[:, 1:]).mean() * 12) < 4 / (2000 * 63) ** 0.5
    assert abs((rows[:-1] * rows[1:]).mean() * 12) < 4 / (1999 * 64) ** 0.5


def test_a_number_depends_on_its_seed_and_place_only():
    seeds = torch.tensor([3, 2**62 + 1, 0])
    whole = uniforms(seeds, 9)
    assert torch.equal(uniforms(seeds[1:2], 5), whole[1:2, :5])
    assert len(set(whole.flatten().tolist())) == whole.numel()


@pytest.mark.rule("P14")
def test_row_seeds_differ_in_every_part():
    base = row_seed(1, 2, "a", 0)
    assert base == row_seed(1, 2, "a")
    others = [
        row_seed(2, 2, "a"),
        row_seed(1, 3, "a"),
        row_seed(1, 2, "b"),
        row_seed(1, 2, "a", 1),
        row_seed(12, 0, "a"),
        row_seed(1, 20, "a"),
    ]
    assert len({base, *others}) == 7
    assert all(0 <= seed < 2**63 for seed in [base, *others])


def test_row_seeds_stay_what_they_are():
    """A job resumed with a newer trainer draws the same samples."""
    assert row_seed(0, 0, "prompt") == 7057791353336339017
