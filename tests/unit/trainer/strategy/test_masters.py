"""AdamW over fp32 masters, and the plain strategy (rules T9, P19, S1)."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlhf_trainer.schedule import Schedule
from rlhf_trainer.strategy import masters, plain
from rlhf_trainer.strategy.base import OptimizerConfig, Trained
from rlhf_trainer.strategy.plain import PlainStrategy
from rlhf_trainer.strategy.select import build
from tests.support.runs import a_run

CONFIG = OptimizerConfig(schedule=Schedule(peak=0.1, total_steps=10, kind="linear", min_fraction=0.5), weight_decay=0.1)


def a_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)


def rows(step: int) -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(step))


@pytest.fixture
def strategy(tmp_path: Path) -> PlainStrategy:
    return PlainStrategy(a_run(tmp_path))


def train(strategy: PlainStrategy, trained: Trained, steps: range, max_norm: float = 0.0) -> None:
    dtype = next(trained.module.parameters()).dtype
    for step in steps:
        strategy.backward(trained, trained.model(rows(step).to(dtype)).float().square().mean())
        strategy.step(trained, max_norm)


def state(strategy: PlainStrategy, trained: Trained) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in strategy.state(trained)}


@pytest.mark.rule("T9", "P21", source="torch: AdamW")
def test_fp32_steps_are_torchs_adamw(strategy: PlainStrategy) -> None:
    trained = strategy.prepare(a_model(), CONFIG)
    train(strategy, trained, range(10), max_norm=0.01)
    for is_fused in (True, False):
        for mine, reference in zip(trained.module.parameters(), trained_by_torch(fused=is_fused).parameters(), strict=True):
            torch.testing.assert_close(mine, reference, rtol=0.0 if is_fused else 1e-6, atol=0.0 if is_fused else 1e-7)


def trained_by_torch(*, fused: bool) -> nn.Module:
    """Ten steps of torch's own AdamW: its one kernel for all parameters, or its formula op by op, which rounds in another order."""
    model = a_model()
    adam = torch.optim.AdamW(model.parameters(), betas=CONFIG.betas, eps=CONFIG.eps, weight_decay=0.1, fused=fused)
    for step in range(10):
        adam.param_groups[0]["lr"] = CONFIG.schedule.rate(step)
        model(rows(step)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        adam.step()
        adam.zero_grad()
    return model


@pytest.mark.rule("T9")
def test_small_updates_add_up_in_the_masters() -> None:
    """In bf16 alone, a step of 1e-4 on a weight of 1 rounds to nothing, for ever."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    config = OptimizerConfig(schedule=Schedule(peak=1e-4, total_steps=100))
    trained = masters.train(model, model, config)
    for _ in range(100):
        model.weight.grad = torch.ones_like(model.weight)
        masters.step(trained, 0)
    assert model.weight.item() == pytest.approx(0.99, abs=4e-3)
    assert trained.optimizer.masters["weight"].item() == pytest.approx(0.99, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.rule("C5", "T1")
def test_resume_is_exact(strategy: PlainStrategy, dtype: torch.dtype) -> None:
    trained = strategy.prepare(a_model(dtype), CONFIG)
    train(strategy, trained, range(4))
    saved = state(strategy, trained)
    train(strategy, trained, range(4, 8))
    other = strategy.prepare(a_model(dtype), CONFIG)
    other.num_updates = other.num_applied = 4
    strategy.load_state(other, saved.__getitem__)
    train(strategy, other, range(4, 8))
    end, again = state(strategy, trained), state(strategy, other)
    assert all(torch.equal(end[name], again[name]) for name in end)
    assert all(torch.equal(a, b) for a, b in zip(trained.module.parameters(), other.module.parameters(), strict=True))


def test_state_before_the_first_step_resumes_too(strategy: PlainStrategy) -> None:
    trained, other = strategy.prepare(a_model(), CONFIG), strategy.prepare(a_model(), CONFIG)
    strategy.load_state(other, state(strategy, trained).__getitem__)
    train(strategy, trained, range(3))
    train(strategy, other, range(3))
    end, again = state(strategy, trained), state(strategy, other)
    assert all(torch.equal(end[name], again[name]) for name in end)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.rule("P19")
def test_non_finite_gradient_changes_nothing_but_the_schedule(strategy: PlainStrategy, bad: float) -> None:
    trained = strategy.prepare(a_model(), CONFIG)
    train(strategy, trained, range(2))
    before = state(strategy, trained)
    strategy.backward(trained, trained.model(rows(2)).sum() * bad)
    report = strategy.step(trained, 1.0)
    assert report.was_skipped
    assert not math.isfinite(report.grad_norm)
    assert all(torch.equal(before[name], tensor) for name, tensor in strategy.state(trained))
    assert (trained.num_updates, trained.num_applied) == (3, 2)
    assert all(parameter.grad is None for parameter in trained.module.parameters())


@pytest.mark.parametrize(("max_norm", "clipped"), [(0.0, 5.0), (1.0, 1.0), (9.0, 5.0)])
@pytest.mark.rule("T6")
def test_norm_is_reported_before_clipping(max_norm: float, clipped: float) -> None:
    model = nn.Linear(2, 1, bias=False)
    trained = masters.train(model, model, CONFIG)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    seen: list[float] = []
    apply = trained.optimizer.apply
    trained.optimizer.apply = lambda rate: (seen.append(float(trained.optimizer.masters["weight"].grad.norm())), apply(rate))
    assert masters.step(trained, max_norm).grad_norm == pytest.approx(5.0)
    assert seen == [pytest.approx(clipped, rel=1e-5)]


def test_frozen_models_are_only_read(strategy: PlainStrategy) -> None:
    trained = strategy.prepare(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), None, frozen=True)
    assert trained.optimizer is None
    assert not trained.module.training
    assert not any(parameter.requires_grad for parameter in trained.module.parameters())


def test_only_trained_parameters_are_in_the_state(strategy: PlainStrategy) -> None:
    model = a_model()
    model[0].requires_grad_(False)
    trained = strategy.prepare(model, CONFIG)
    train(strategy, trained, range(1))
    names = sorted(name for name, _ in strategy.state(trained))
    assert names == sorted(f"{key}/2.{name}" for key in ("weight", "exp_avg", "exp_avg_sq") for name in ("weight", "bias"))
    assert trained.state_bytes == 12 * 5


def test_rollout_weights_are_in_eval_mode_and_the_mode_comes_back(strategy: PlainStrategy) -> None:
    trained = strategy.prepare(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9)), CONFIG)
    with strategy.rollout_weights(trained) as module:
        first, second = module(rows(0)), module(rows(0))
        assert torch.equal(first, second)
        assert not first.requires_grad
    assert trained.module.training


@pytest.mark.rule("T9", "G6")
def test_bf16_rollout_on_a_cpu_uses_an_fp32_copy(strategy: PlainStrategy) -> None:
    trained = strategy.prepare(a_model(torch.bfloat16), CONFIG)
    with strategy.rollout_weights(trained) as module:
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
        for copied, own in zip(module.parameters(), trained.module.parameters(), strict=True):
            assert torch.equal(copied, own.float())


def test_fp32_adapters_in_a_bf16_model_do_not_keep_it_from_the_copy(strategy: PlainStrategy) -> None:
    model = a_model(torch.bfloat16)
    model[-1].float()  # as adapters are: trained in fp32, beside frozen bf16 weights
    with strategy.rollout_weights(strategy.prepare(model, CONFIG)) as module:
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_models_that_only_read_whole_rows_are_not_copied(strategy: PlainStrategy) -> None:
    model = a_model(torch.bfloat16)
    model.generates = False
    trained = strategy.prepare(model, CONFIG)
    with strategy.rollout_weights(trained) as module:
        assert module is trained.module


def test_without_memory_bf16_rolls_out_in_bf16(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(plain, "free_host_bytes", lambda: 100)
    assert plain.rollout_dtype(torch.bfloat16, torch.device("cpu"), 1000) is torch.bfloat16
    assert "no memory" in caplog.text
    assert plain.rollout_dtype(torch.bfloat16, torch.device("cuda"), 1) is torch.bfloat16


def test_export_has_every_tensor_of_the_model(strategy: PlainStrategy) -> None:
    model = a_model()
    trained = strategy.prepare(model, CONFIG)
    exported = dict(strategy.export(trained))
    assert exported.keys() == model.state_dict().keys()


def test_one_worker_of_ddp_is_plain(tmp_path: Path) -> None:
    assert build(a_run(tmp_path, plan={"strategy": "ddp"})).name == "plain"


@pytest.mark.rule("S1")
def test_plain_imports_neither_colossalai_nor_peft_nor_bitsandbytes() -> None:
    script = (
        "import sys, rlhf_trainer.strategy.select, rlhf_trainer.loop, rlhf_trainer.strategy.plain;"
        "found = {'colossalai', 'peft', 'bitsandbytes', 'transformers'} & sys.modules.keys(); sys.exit(bool(found))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
