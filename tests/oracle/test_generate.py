"""Rules G1, G2, G3, P7, P8, P14 (check A10): our generator. Oracles: HF `generate`; a teacher-forced forward pass."""

import copy

import pytest
import torch

from rlhf_trainer.rollout import generate as generation
from rlhf_trainer.rollout.generate import GenerateConfig, generate, position_ids
from rlhf_trainer.rollout.sampling import choose
from tests.oracle import mutants_of_rollout as mutants
from tests.oracle.models import PAD, VOCAB, prompts, tiny
from tests.oracle.support import must_fail, names, noise

ARCHITECTURES = ["llama", "gpt2", "qwen2", "gemma3"]
LENGTHS = [3, 9, 1, 12, 7, 5, 12, 2, 6]
NEW = 24
STOPS = tuple(range(1, 11))
NEVER = (VOCAB,)
"""A stop id that no model can say."""


def config(**changes):
    return GenerateConfig(**{"max_new_tokens": NEW, "stop_ids": STOPS, "pad_id": PAD} | changes)


def hf_greedy(model, ids, mask, stops, max_new_tokens=NEW):
    end = {"eos_token_id": list(stops)} if stops != NEVER else {}
    found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=PAD, **end)
    return found[:, ids.shape[1] :]


def check_greedy(implementation, architectures=("gpt2", "gemma3")):
    """Mixed lengths, rows that stop early and rows that never do, all at once, one by one, and through a queue."""
    ids, mask = prompts(LENGTHS)
    for name in architectures:
        for stops in (STOPS, NEVER):
            wanted = hf_greedy(tiny(name), ids, mask, stops)
            for max_rows in (None, 4, 1):
                found = implementation(tiny(name), ids, mask, config(greedy=True, stop_ids=stops, max_rows=max_rows))
                assert torch.equal(found.tokens, wanted), f"{name}, stops {stops}, {max_rows} rows"


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.rule("G1", "G5", "P7", source="transformers: generate, four architectures")
def test_greedy_tokens_are_those_of_hf(name):
    check_greedy(generate, [name])


@pytest.mark.parametrize(**names(mutants.GREEDY))
@pytest.mark.mutant("G1", "G2", "G5", "P7")
def test_the_greedy_check_catches(mutant):
    must_fail(check_greedy, mutant)


CONTEXT = 64
"""Positions of the tiny GPT-2."""
LONG_LENGTHS = [60, 3, CONTEXT, 12, 41, CONTEXT - 1]


@pytest.mark.parametrize("max_rows", [None, 2, 1])
def test_an_answer_ends_where_the_context_does(max_rows):
    """Learned positions have no entry behind it; rows with room go on, beside those that have none left."""
    ids, mask = prompts(LONG_LENGTHS)
    with pytest.raises(IndexError):
        generate(tiny("gpt2"), ids, mask, config(greedy=True, stop_ids=NEVER, max_rows=max_rows))
    found = generate(tiny("gpt2"), ids, mask, config(greedy=True, stop_ids=NEVER, max_rows=max_rows, context=CONTEXT))
    rooms = [min(NEW, CONTEXT - length) for length in LONG_LENGTHS]
    assert found.mask.sum(dim=1).tolist() == rooms == [4, NEW, 0, NEW, 23, 1]
    for row, (length, room) in enumerate(zip(LONG_LENGTHS, rooms, strict=True)):
        wanted = hf_greedy(tiny("gpt2"), ids[row : row + 1, -length:], mask[row : row + 1, -length:], NEVER, room) if room else ids[:1, :0]
        assert torch.equal(found.tokens[row, :room], wanted[0])
        assert (found.tokens[row, room:] == PAD).all()


def test_a_context_cuts_answers_and_changes_no_token():
    ids, mask = prompts(LONG_LENGTHS)
    whole, cut = (generate(tiny("llama"), ids, mask, config(context=context), range(len(ids))) for context in (None, CONTEXT))
    for row, length in enumerate(cut.mask.sum(dim=1).tolist()):
        assert torch.equal(cut.tokens[row, :length], whole.tokens[row, :length])
        assert length == min(int(whole.mask[row].sum()), CONTEXT - LONG_LENGTHS[row])


def test_prompts_that_leave_no_room_have_empty_answers():
    ids, mask = prompts([CONTEXT, CONTEXT + 9])
    found = generate(tiny("gpt2"), ids, mask, config(context=CONTEXT), range(2))
    assert [part.shape for part in found] == [(2, 0)] * 3


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.rule("G2")
def test_compaction_changes_nothing(name):
    ids, mask = prompts(LENGTHS)
    seeds = torch.arange(len(LENGTHS))
    for changes in ({"greedy": True}, {"temperature": 1.3}):
        on, off = (generate(tiny(name), ids, mask, config(compact=compact, **changes), seeds) for compact in (True, False))
        assert torch.equal(on.tokens, off.tokens)
        assert torch.equal(on.mask, off.mask)
        torch.testing.assert_close(on.logprobs, off.logprobs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("max_rows", [None, 4])
def test_rare_looks_at_finished_rows_change_nothing(max_rows, monkeypatch):
    """On a GPU rows stand still for up to seven steps after their end."""
    ids, mask = prompts(LENGTHS)
    every = generate(tiny("gpt2"), ids, mask, config(max_rows=max_rows), range(len(LENGTHS)))
    monkeypatch.setattr(generation, "CHECK_STEPS_CPU", 8)
    rare = generate(tiny("gpt2"), ids, mask, config(max_rows=max_rows), range(len(LENGTHS)))
    assert torch.equal(every.tokens, rare.tokens)
    assert torch.equal(every.mask, rare.mask)


def test_the_model_is_left_as_it_was():
    """Training goes on after a rollout: same modes, and gradients through everything that the rollout touched."""
    model = copy.deepcopy(tiny("llama")).train()
    model.model.norm.eval()
    ids, mask = prompts([3, 5])
    generate(model, ids, mask, config(greedy=True))
    assert model.training
    assert not model.model.norm.training
    model(input_ids=ids, attention_mask=mask).logits.sum().backward()


def test_bf16_rows_are_answered():
    ids, mask = prompts(LENGTHS)
    model = copy.deepcopy(tiny("llama")).bfloat16()
    found = generate(model, ids, mask, config(), range(len(LENGTHS)))
    assert found.logprobs.dtype == torch.float32
    assert torch.isfinite(found.logprobs).all()


def teacher_forced(model, ids, mask, found, temperature):
    """Log-probabilities of the answers from one forward pass over prompt and answer."""
    whole, seen = torch.cat([ids, found.tokens], dim=1), torch.cat([mask, found.mask], dim=1)
    with torch.no_grad():
        logits = model(input_ids=whole, attention_mask=seen, position_ids=position_ids(seen)).logits.float()
    before = logits[:, ids.shape[1] - 1 : -1] / temperature
    return before.log_softmax(-1).gather(-1, found.tokens[..., None])[..., 0] * found.mask


def check_sampled_logprobs(implementation):
    ids, mask = prompts(LENGTHS)
    for name in ("gpt2", "llama"):
        found = implementation(tiny(name), ids, mask, config(temperature=1.7, max_rows=4), range(len(LENGTHS)))
        difference = (found.logprobs - teacher_forced(tiny(name), ids, mask, found, 1.7)).abs().max()
        assert difference < 1e-4, f"{name}: off by {difference}"


@pytest.mark.rule("G3", source="transformers: one forward over prompt and answer")
def test_logprobs_equal_a_teacher_forced_pass():
    check_sampled_logprobs(generate)


@pytest.mark.parametrize(**names(mutants.SAMPLED_LOGPROBS))
@pytest.mark.mutant("G3")
def test_the_logprob_check_catches(mutant):
    must_fail(check_sampled_logprobs, mutant)


def check_seeds(implementation):
    """A row's answer follows from its prompt and its seed: order, neighbours, padding and batch size are nobody's business."""
    ids, mask = prompts(LENGTHS, width=15)
    seeds = torch.arange(len(LENGTHS)) * 7 + 2**40
    whole = implementation(tiny("llama"), ids, mask, config(), seeds)
    order = torch.tensor([4, 8, 0, 2, 6, 1, 7, 3, 5])
    shuffled = implementation(tiny("llama"), ids[order], mask[order], config(max_rows=4), seeds[order])
    assert torch.equal(shuffled.tokens, whole.tokens[order])
    for row in (0, 3, 5):
        alone = implementation(
            tiny("llama"), ids[row : row + 1, -LENGTHS[row] :], mask[row : row + 1, -LENGTHS[row] :], config(), seeds[row : row + 1]
        )
        length = int(alone.mask.sum())
        assert torch.equal(alone.tokens[0], whole.tokens[row, :length])
        assert int(whole.mask[row].sum()) == length
    other = implementation(tiny("llama"), ids, mask, config(), seeds + 1)
    assert not torch.equal(other.tokens[:, :2], whole.tokens[:, :2])


@pytest.mark.rule("P14", "G2")
def test_a_row_draws_by_its_own_seed():
    check_seeds(generate)


@pytest.mark.parametrize(**names(mutants.SEEDS))
@pytest.mark.mutant("P14")
def test_the_seed_check_catches(mutant):
    must_fail(check_seeds, mutant)


class Scripted(torch.nn.Module):
    """A model that says `script[row][i]` as token i of every answer, whatever it is shown. Prompts are two tokens long, rows stay in order."""

    def __init__(self, script):
        super().__init__()
        self.script, self.inner = torch.tensor(script), tiny("llama")

    def forward(self, position_ids, **kwargs):
        output = self.inner(position_ids=position_ids, **kwargs)
        said = self.script.gather(1, (position_ids[:, -1:] - 1).clamp(max=self.script.shape[1] - 1))
        output.logits = 50 * torch.nn.functional.one_hot(said, VOCAB).float()
        return output


def check_stops(implementation):
    script = [[3, 20, 21, 22], [20, 2, 21, 22], [20, 21, 22, 23], [20, 21, 22, 2], [20, 21, 2, 3]]
    wanted_lengths = [1, 2, 4, 4, 3]
    ids = torch.full((len(script), 2), 11)
    found = implementation(
        Scripted(script), ids, torch.ones_like(ids), config(max_new_tokens=4, stop_ids=(2, 3), greedy=True, compact=False)
    )
    assert found.mask.sum(dim=1).tolist() == wanted_lengths
    for row, length in enumerate(wanted_lengths):
        assert found.tokens[row, :length].tolist() == script[row][:length]
        assert (found.tokens[row, length:] == PAD).all()
        assert (found.logprobs[row, length:] == 0).all()


@pytest.mark.rule("P8")
def test_the_first_stop_token_ends_an_answer_and_belongs_to_it():
    check_stops(generate)


@pytest.mark.parametrize(**names(mutants.STOPS))
@pytest.mark.mutant("P8")
def test_the_stop_check_catches(mutant):
    must_fail(check_stops, mutant)


NUM_DRAWS = 60_000


def truncated(probs, top_k, top_p):
    """The distribution after top-k, then top-p: the most probable tokens until their sum reaches top_p (Holtzman et al. 2020)."""
    ranked = sorted(range(len(probs)), key=lambda i: -probs[i])[: top_k or len(probs)]
    total, kept, reached = sum(probs[i] for i in ranked), [], 0.0
    for i in ranked:
        if reached >= top_p:
            break
        kept.append(i)
        reached += probs[i] / total
    mass = sum(probs[i] for i in kept)
    return [probs[i] / mass if i in kept else 0.0 for i in range(len(probs))]


def check_choose(implementation):
    """Chi-square of 60 000 draws against the exact distribution, and the log-probability of each."""
    logits = noise(12, seed=3, scale=1.5)
    for temperature, top_k, top_p in ((1.0, 0, 1.0), (0.6, 0, 1.0), (1.0, 5, 1.0), (1.4, 0, 0.8), (0.8, 7, 0.9)):
        exact = torch.tensor(truncated((logits.double() / temperature).softmax(0).tolist(), top_k, top_p), dtype=torch.float64)
        cfg = config(temperature=temperature, top_k=top_k, top_p=top_p)
        uniforms = torch.rand(NUM_DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        tokens, lp = implementation(logits.expand(NUM_DRAWS, -1), uniforms, cfg)
        counts = torch.bincount(tokens, minlength=12).double()
        assert (counts[exact == 0] == 0).all()
        kept = exact > 0
        chi_square = ((counts - NUM_DRAWS * exact)[kept] ** 2 / (NUM_DRAWS * exact[kept])).sum()
        degrees = int(kept.sum()) - 1
        assert chi_square < degrees + 4 * (2 * degrees) ** 0.5 + 8, f"{chi_square:.1f} for {degrees} degrees of freedom"
        torch.testing.assert_close(lp.double(), exact[tokens].log(), rtol=0, atol=1e-5)


@pytest.mark.rule("P5", "G3", source="chi-square; Holtzman et al. 2020, arXiv:1904.09751")
def test_draws_follow_the_distribution():
    check_choose(choose)


@pytest.mark.parametrize(**names(mutants.CHOOSE))
@pytest.mark.mutant("P5", "G3")
def test_the_draw_check_catches(mutant):
    must_fail(check_choose, mutant)


@pytest.mark.rule("G3")
def test_answers_follow_the_distribution_of_the_model():
    """First tokens of 4000 answers to one prompt, through the whole generator, against its logits."""
    ids, mask = prompts([5])
    model = tiny("llama")
    with torch.no_grad():
        exact = (model(input_ids=ids).logits[0, -1].float() / 2.0).softmax(0)
    found = generate(model, ids.expand(4000, -1), mask.expand(4000, -1), config(max_new_tokens=1, temperature=2.0), range(4000))
    counts = torch.bincount(found.tokens[:, 0], minlength=VOCAB)
    common = exact > 0.004
    assert ((counts[common] / 4000 - exact[common]).abs() < 4.5 * (exact[common] / 4000).sqrt()).all()
