"""Rules G9, F1, P5 (checks A1, A5): chunked heads. Oracles: log_softmax over all logits at once; the loss of transformers."""

import pytest
import torch
from torch import nn

from rlhf_trainer.rl import losses
from rlhf_trainer.rl.chunks import default_chunk_tokens
from rlhf_trainer.rollout.logprobs import token_entropy, token_logprobs
from tests.oracle import mutants, mutants_of_rollout
from tests.oracle.support import close, must_fail, names, noise

CHUNKS = [1, 3, 7, 16, 1000]
VOCAB = 31


def a_case(vocab=VOCAB):
    hidden = noise(3, 6, 8).requires_grad_()
    weight = noise(vocab, 8, seed=1).requires_grad_()
    ids = torch.randint(0, vocab, (3, 6), generator=torch.Generator().manual_seed(2))
    return hidden, weight, ids


def check_token_logprobs(implementation):
    weights_of_tokens = noise(3, 6, seed=5)  # a gradient that differs from token to token
    for temperature in (1.0, 0.7):
        hidden, weight, ids = a_case()
        wanted = ((hidden @ weight.T) / temperature).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        (wanted * weights_of_tokens).sum().backward()
        for chunk in CHUNKS:
            ours, our_weight, _ = a_case()
            found = implementation(ours, our_weight, ids, temperature, chunk)
            close(found, wanted, 1e-6)
            (found * weights_of_tokens).sum().backward()
            close(ours.grad, hidden.grad, 2e-6)
            assert our_weight.grad is not None, "the head learns as well"
            close(our_weight.grad, weight.grad, 2e-6)


@pytest.mark.rule("G9", "P5", "P20", source="torch: log_softmax and gather")
def test_token_logprobs():
    check_token_logprobs(token_logprobs)


@pytest.mark.parametrize(**names(mutants_of_rollout.TOKEN_LOGPROBS))
@pytest.mark.mutant("G9", "P5", "P20")
def test_the_check_catches(mutant):
    must_fail(check_token_logprobs, mutant)


@pytest.mark.parametrize("chunk", [*CHUNKS, None])
def test_entropy(chunk):
    hidden, weight, _ = a_case()
    close(token_entropy(hidden, weight, 0.7, chunk), torch.distributions.Categorical(logits=hidden @ weight.T / 0.7).entropy(), 1e-6)


@pytest.mark.parametrize("head", ["module", "function", "weight"])
def test_a_head_may_be_a_module_a_function_or_a_weight(head):
    hidden, weight, ids = a_case()
    module = nn.Linear(8, VOCAB, bias=False)
    module.weight = nn.Parameter(weight.detach())
    heads = {"module": module, "function": lambda h: module(h), "weight": weight}
    close(token_logprobs(hidden, heads[head], ids, 1.0, 4), (hidden @ weight.T).log_softmax(-1).gather(-1, ids[..., None])[..., 0])


def test_a_head_without_a_weight_shows_its_vocabulary_by_one_row():
    hidden, weight, ids = a_case()
    with torch.no_grad():
        found = token_logprobs(hidden, lambda h: h @ weight.T, ids)
        close(found, token_logprobs(hidden, weight, ids, 1.0, 5))


def test_a_chunk_holds_64_mib_of_logits():
    assert default_chunk_tokens(torch.empty(2**14, 8), torch.empty(1, 8)) == 64 * 2**20 // (4 * 2**14)
    assert default_chunk_tokens(torch.empty(2**30, 8, device="meta"), torch.empty(1, 8)) == 1


def test_an_empty_batch_has_no_logprobs_and_no_crash():
    hidden = torch.zeros(0, 4, 8, requires_grad=True)
    found = token_logprobs(hidden, noise(VOCAB, 8), torch.zeros(0, 4, dtype=torch.int64))
    found.sum().backward()
    assert found.shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "match"), [((torch.zeros(3, 5, dtype=torch.int64), 1.0, None), "shapes"), ((None, 1.0, 0), "chunk_tokens")]
)
def test_wrong_arguments_are_refused(arguments, match):
    hidden, weight, ids = a_case()
    wrong, temperature, chunk = arguments
    with pytest.raises(ValueError, match=match):
        token_logprobs(hidden, weight, ids if wrong is None else wrong, temperature, chunk)


def a_labelled_batch():
    labels = torch.randint(0, VOCAB, (4, 6), generator=torch.Generator().manual_seed(3))
    labels[0, :4], labels[1, 2:], labels[2] = losses.IGNORED, losses.IGNORED, losses.IGNORED
    return noise(4, 6, VOCAB, seed=4), labels


def check_lm_loss(lm_loss):
    """1 x 4, 4 x 1 and 2 + 2 rows of very different token counts: one loss, one gradient, that of transformers."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    raw, labels = a_labelled_batch()
    count = int((labels[:, 1:] != losses.IGNORED).sum())
    theirs = raw.clone().requires_grad_()
    wanted = ForCausalLMLoss(theirs, labels, VOCAB, num_items_in_batch=torch.tensor(count))
    wanted.backward()
    for parts in ([slice(0, 4)], [slice(i, i + 1) for i in range(4)], [slice(0, 2), slice(2, 4)]):
        ours = raw.clone().requires_grad_()
        total = 0.0
        for rows in parts:
            loss = lm_loss(ours[rows], labels[rows], count)
            loss.backward()
            total = total + loss.detach()
        close(total, wanted, 1e-6)
        close(ours.grad, theirs.grad, 1e-6)


@pytest.mark.rule("F1", source="transformers: loss with num_items_in_batch")
def test_lm_loss():
    check_lm_loss(losses.lm_loss)


@pytest.mark.parametrize(**names(mutants.LM_LOSS))
@pytest.mark.mutant("F1")
def test_the_lm_check_catches(mutant):
    must_fail(check_lm_loss, mutant)


@pytest.mark.parametrize("chunk", [*CHUNKS, None])
@pytest.mark.rule("G9", source="torch: log_softmax and gather")
def test_lm_loss_of_hidden_states_equals_that_of_logits(chunk):
    _, labels = a_labelled_batch()
    hidden, weight = noise(4, 6, 8).requires_grad_(), noise(VOCAB, 8, seed=1).requires_grad_()
    losses.lm_loss(hidden @ weight.T, labels, 9).backward()
    wanted = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    loss = losses.lm_loss(hidden, labels, 9, head=weight, chunk_tokens=chunk)
    loss.backward()
    close(loss, losses.lm_loss(hidden @ weight.T, labels, 9), 1e-6)
    close(hidden.grad, wanted[0], 2e-6)
    close(weight.grad, wanted[1], 2e-6)


def test_a_batch_without_labels_has_a_loss_of_zero_and_a_gradient():
    logits = noise(1, 3, VOCAB).requires_grad_()
    loss = losses.lm_loss(logits, torch.full((1, 3), losses.IGNORED), 0)
    loss.backward()
    assert loss == 0
    assert logits.grad.abs().max() == 0
