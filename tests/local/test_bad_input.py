"""What goes wrong before and while a job runs: the exit code, a message that helps, and nothing half-written."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Called, Rlhf, rlhf_in
from tests.support.jobs import PPO, REWARD, SFT, a_job_file
from tests.support.volumes import mounted

Change = Callable[[dict[str, Any]], object]
MIB = 1 << 20


@pytest.fixture
def rlhf(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rlhf:
    """`rlhf` in this process, in a directory of its own with an empty `data/`. The trainer's processes are real."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("data").mkdir()
    return rlhf_in(capsys, monkeypatch)


def a_full_job(change: Change) -> Path:
    """A valid SFT, reward model, PPO job, then changed."""
    file = a_job_file(Path("bad.json"), stages={"sft": SFT, "rm": REWARD, "ppo": PPO})
    job = json.loads(file.read_text())
    change(job)
    file.write_text(json.dumps(job))
    return file


def put(*path: str | int, value: object) -> Change:
    def change(job: dict[str, Any]) -> None:
        place: Any = job["spec"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = copy.deepcopy(value)

    return change


def drop_stage(index: int) -> Change:
    return lambda job: job["spec"]["stages"].pop(index)


REFUSED = [
    pytest.param(
        put("stages", 0, "sft", "globalBatchSise", value=8),
        64,
        ["spec.stages[0].sft.globalBatchSise", "globalBatchSize"],
        id="an unknown field",
    ),
    pytest.param(
        put("stages", 0, "sft", "init", value={"stage": "ppo"}), 64, ["spec.stages[0].sft.init", "earlier"], id="a cycle of stages"
    ),
    pytest.param(put("stages", 1, "after", value=["ppo"]), 64, ["spec.stages[1].after", "earlier"], id="waiting for a later stage"),
    pytest.param(drop_stage(1), 64, ["spec.stages[1].ppo", "reward"], id="PPO without a reward model"),
    pytest.param(
        put("stages", 0, "sft", "dataset", value={}), 64, ["spec.stages[0].sft.dataset.uri", "required"], id="a dataset without uri"
    ),
    pytest.param(
        put("stages", 0, "sft", "dataset", "uri", value="ftp://host/x"),
        64,
        ["spec.stages[0].sft.dataset", "'ftp://host/x'"],
        id="an unknown scheme",
    ),
    pytest.param(
        put("stages", 0, "sft", "dataset", "uri", value="https://host/x.jsonl"),
        64,
        ["spec.stages[0].sft.dataset", "sha256"],
        id="https unpinned",
    ),
    pytest.param(
        put("stages", 0, "sft", "learningRate", value="2e-5"), 64, ["spec.stages[0].sft.learningRate", "'2e-5'"], id="a number as text"
    ),
    pytest.param(put("stages", 0, "sft", "learningRate", value=0), 64, ["spec.stages[0].sft.learningRate", "0"], id="a learning rate of 0"),
    pytest.param(
        put("stages", 2, "ppo", "minibatchSize", value=5), 64, ["spec.stages[2].ppo", "minibatchSize"], id="minibatches that do not divide"
    ),
    pytest.param(put("stages", 1, "name", value="sft"), 64, ["spec.stages[1].name", "'sft'"], id="a name that stands twice"),
    pytest.param(put("stages", 1, "type", value="SFT"), 64, ["spec.stages[1]", "sft"], id="a block of another type"),
    pytest.param(put("stages", value=[]), 64, ["spec.stages"], id="no stages"),
    pytest.param(lambda job: job["metadata"].update(name="Bad_Name"), 64, ["metadata.name", "'Bad_Name'"], id="a name Kubernetes refuses"),
    pytest.param(lambda job: job.update(apiVersion="rlhf.dev/v2"), 64, ["apiVersion", "rlhf.dev/v1alpha1"], id="another version"),
    pytest.param(
        lambda job: (put("model", "lora", value={"rank": 4})(job), put("strategy", value="gemini")(job)),
        69,
        ["lora works with strategy", "zero2"],
        id="gemini with LoRA",
    ),
    pytest.param(put("strategy", value="3d"), 69, ["spec.strategy", "'3d'"], id="tensor parallelism"),
    pytest.param(
        put("stages", 0, "sft", "dataset", "uri", value="s3://bucket/x.jsonl"),
        69,
        ["spec.stages[0].sft.dataset.uri", "pvc://"],
        id="a source of later",
    ),
    pytest.param(
        put("stages", 0, "sft", "dataset", "uri", value="pvc://data/x.jsonl"), 64, ["--claim data=DIR"], id="a claim without --claim"
    ),
]


@pytest.mark.parametrize(("change", "code", "words"), REFUSED)
def test_a_manifest_is_refused_before_anything_runs(change: Change, code: int, words: list[str], rlhf: Rlhf) -> None:
    finished = rlhf("run", a_full_job(change))
    assert (finished.code, finished.out) == (code, ""), finished.err
    for word in words:
        assert word in finished.err
    assert "Traceback" not in finished.err
    assert not Path(".rlhf").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("kind: RLHFJob\n  spec: 1\n", ["bad.yaml:2:"], id="bad indentation"),
        pytest.param("kind: RLHFJob\n---\nkind: RLHFJob\n", ["2 documents"], id="two jobs in one file"),
        pytest.param("", ["holds nothing"], id="an empty file"),
    ],
)
def test_a_file_that_is_no_job(text: str, words: list[str], rlhf: Rlhf) -> None:
    Path("bad.yaml").write_text(text)
    finished = rlhf("run", "bad.yaml")
    assert finished.code == 64
    assert all(word in finished.err for word in words), finished.err


def test_all_problems_are_named_at_once(rlhf: Rlhf) -> None:
    def change(job: dict[str, Any]) -> None:
        put("seed", value=-1)(job)
        put("stages", 0, "sft", "epochs", value=0)(job)
        put("stages", 2, "ppo", "temperature", value=0)(job)

    finished = rlhf("run", a_full_job(change))
    assert [line.split(":")[0] for line in finished.err.splitlines()] == [
        "spec.seed",
        "spec.stages[0].sft.epochs",
        "spec.stages[2].ppo.temperature",
    ]


# ---- data that only Prepare can judge


def rows(count: int) -> list[dict[str, str]]:
    return [{"instruction": f"What is {number} plus 1?", "output": str(number + 1)} for number in range(count)]


def as_lines(found: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in found).encode()


def malformed(number: int, line: str) -> bytes:
    lines = as_lines(rows(50)).decode().splitlines()
    lines[number - 1] = line
    return "\n".join(lines).encode()


BAD_DATA = [
    pytest.param(malformed(37, '{"instruction": "What is'), {}, 65, ["sft.jsonl", "37"], id="row 37 is no JSON"),
    pytest.param(malformed(37, '{"instruction": "What is 3?"}'), {}, 65, ["sft.jsonl", "37", "output"], id="row 37 has no output"),
    pytest.param(
        malformed(37, '{"instruction": "What?", "output": 7}'), {}, 65, ["sft.jsonl", "37", "output"], id="row 37 has a number for text"
    ),
    pytest.param(b"", {}, 65, ["sft.jsonl"], id="an empty data set"),
    pytest.param(
        as_lines([{"instruction": "x " * 400, "output": "y"}] * 5),
        {},
        65,
        ["sft.jsonl", "all 5 rows were dropped", "maxLength"],
        id="every row is too long",
    ),
    pytest.param(as_lines(rows(5)), {"sha256": "0" * 64}, 66, ["pvc://data/sft.jsonl", "0" * 64], id="another digest"),
    pytest.param(None, {}, 66, ["pvc://data/sft.jsonl"], id="a file that is not there"),
    pytest.param(
        malformed(37, '{"prompt": "a", "chosen": "b", "rejected": "c"}'), {}, 65, ["sft.jsonl", "37"], id="row 37 has another format"
    ),
    pytest.param(as_lines(rows(5)), {"format": "alpaca"}, 65, ["sft.jsonl", "JSON"], id="lines instead of one array"),
]


@pytest.mark.parametrize(("data", "source", "code", "words"), BAD_DATA)
def test_bad_data_ends_in_prepare(data: bytes | None, source: dict[str, str], code: int, words: list[str], rlhf: Rlhf) -> None:
    if data is not None:
        Path("data/sft.jsonl").write_bytes(data)
    finished = run_sft(rlhf, dataset={"uri": "pvc://data/sft.jsonl"} | source)
    assert finished.code == code, finished.err + finished.out
    for word in words:
        assert word in finished.err
    assert_nothing_half_written()


def run_sft(rlhf: Rlhf, *options: object, dataset: dict[str, str], **spec: Any) -> Called:
    """Run an SFT stage on a dataset, once."""
    file = a_job_file(Path("bad.json"), stages={"sft": SFT | {"dataset": dataset}}, runPolicy={"maxAttempts": 1}, **spec)
    return rlhf("run", file, "--claim", "data=data", *options)


def assert_nothing_half_written(place: Path = Path(".rlhf")) -> None:
    """Outputs that exist are proven, and nothing with a temporary name is left."""
    for output in place.rglob("output"):
        assert (output / "manifest.json").is_file()
    left = {path.name for folder in ("sources", "datasets") for found in place.rglob(folder) for path in found.iterdir()}
    assert [name for name in left - {"seen.json"} if not name.startswith("sha256-")] == []


def test_the_right_digest_passes(rlhf: Rlhf) -> None:
    data = as_lines(rows(40))
    Path("data/sft.jsonl").write_bytes(data)
    job = a_job_file(
        Path("good.json"),
        stages={"sft": SFT | {"dataset": {"uri": "pvc://data/sft.jsonl", "sha256": hashlib.sha256(data).hexdigest()}, "maxSteps": 1}},
    )
    finished = rlhf("run", job, "--claim", "data=data")
    assert finished.code == 0, finished.err


# ---- volumes that fail


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        pytest.param(MIB, ["No space left on device"], id="no room for the datasets"),
        pytest.param(
            9 * MIB, ["MiB free, the checkpoint needs", "spec.storage.size"], id="room for the datasets, none for the first checkpoint"
        ),
    ],
)
def test_a_full_volume(size_bytes: int, words: list[str], rlhf: Rlhf) -> None:
    """Full is what stands for the claim; the driver's own files are elsewhere."""
    with mounted(Path(".rlhf/bad/volume").absolute(), size_bytes=size_bytes) as volume:
        finished = run_sft(rlhf, dataset=SFT["dataset"])
        assert finished.code == 74, finished.err + finished.out
        for word in words:
            assert word in finished.err
        assert [path for path in volume.rglob("checkpoints/*") if path.is_dir()] == []
        assert_nothing_half_written(volume)


def test_a_volume_that_cannot_be_written(rlhf: Rlhf) -> None:
    with mounted(Path("volume").absolute(), size_bytes=MIB, options=",ro") as volume:
        finished = run_sft(rlhf, "--workdir", volume / "job", dataset=SFT["dataset"])
        assert finished.code == 74, finished.err
        assert "--workdir" in finished.err
        assert "Read-only file system" in finished.err


@pytest.mark.parametrize(("options", "why"), [
    pytest.param(",ro", "Read-only file system", id="read-only"),
    pytest.param("", "No space left on device", id="full"),
])  # fmt: skip
def test_a_destination_that_cannot_be_written(options: str, why: str, rlhf: Rlhf) -> None:
    with mounted(Path("models").absolute(), size_bytes=MIB, options=options) as models:
        job = a_job_file(
            Path("bad.json"),
            stages={"sft": SFT | {"maxSteps": 1}, "publish": {"destination": {"uri": "pvc://models/x"}}},
            runPolicy={"maxAttempts": 1},
        )
        finished = rlhf("run", job, "--claim", "models=models")
        assert finished.code == 74, finished.err + finished.out
        assert f"pvc://models/x: {why} Hint: free space" in finished.err
        assert not list(models.iterdir())
