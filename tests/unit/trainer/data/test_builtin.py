"""Rules B1 to B3: the sample data is deterministic, checkable, bilingual, and carries what RLHF is for."""

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from rlhf_trainer.data.answers import is_exact_match, is_refusal, language_of
from rlhf_trainer.data.builtin import make
from rlhf_trainer.data.builtin.make import DATASETS, NUM_HELD_OUT, Rows, datasets, split
from rlhf_trainer.data.builtin.tasks import Item, all_items
from rlhf_trainer.data.builtin.tokenizer import SPECIAL_TOKENS, VOCAB_SIZE
from rlhf_trainer.data.builtin.words import number_in_chinese, number_in_english
from rlhf_trainer.models import presets


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Rows]]:
    return datasets()


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return all_items()


def test_the_files_never_change_unnoticed(tmp_path: Path) -> None:
    # Golden: another digest is another dataset, and every number of the guide was measured on this one.
    assert make.main([str(tmp_path)]) == 0
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl"))
    assert files == [f"{name}/{part}.jsonl" for name in sorted(DATASETS) for part in ("test", "train")]
    content = b"".join((tmp_path / file).read_bytes() for file in files)
    assert hashlib.sha256(content).hexdigest() == GOLDEN


def test_the_script_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert make.main([]) == 64
    assert "usage:" in capsys.readouterr().err


def test_there_are_about_1600_prompts_and_none_twice(items: list[Item]) -> None:
    assert 1500 <= len(items) <= 1700
    assert len({item.prompt for item in items}) == len(items)


def test_no_task_is_above_a_fifth(items: list[Item]) -> None:
    assert max(Counter(item.task for item in items).values()) <= 0.2 * len(items)


def test_every_task_speaks_both_languages(items: list[Item]) -> None:
    languages = defaultdict(Counter[str])
    for item in items:
        languages[item.task][language_of(item.prompt)] += 1
    for counts in languages.values():
        assert min(counts["en"], counts["zh"]) >= 0.3 * counts.total()


def test_held_out_prompts_are_new_but_their_facts_are_not() -> None:
    train, test = split()
    assert len(test) == NUM_HELD_OUT
    assert not {item.prompt for item in train} & {item.prompt for item in test}
    wordings = Counter((item.task, item.fact) for item in train)
    assert all(wordings[item.task, item.fact] >= 2 for item in test)
    assert {item.task for item in test} == {item.task for item in train}


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("What is 3 plus 4?", "7"),
        ("用中文写12。", "十二"),
        ("Write 12 in English.", "twelve"),
        ("Write twelve as digits.", "12"),
        ("Translate to Chinese: red", "红色"),
        ("把红色翻译成英文。", "red"),
        ("What day comes after Monday?", "Tuesday"),
        ("星期一的后一天是什么?", "星期二"),
    ],
)
def test_answers_are_right(items: list[Item], prompt: str, answer: str) -> None:
    assert {item.answer for item in items if item.prompt == prompt} in ({answer}, set() if "plus" in prompt else {answer})


def test_answers_follow_from_the_prompt(items: list[Item]) -> None:
    for item in items:
        if item.task == "addition":
            a, b = item.fact.split("+")
            assert int(item.answer) == int(a) + int(b)
        elif item.task == "sorting":
            shown = item.prompt.split(": ")[1].split()
            assert item.answer.split() == sorted(shown) != shown
        elif item.task == "copying":
            assert item.prompt.endswith(f": {item.answer}")
        elif item.task == "counting":
            assert int(item.answer) == len(item.prompt.split(": ")[1].split())


def test_number_words() -> None:
    assert [number_in_english(n) for n in (0, 11, 20, 21, 30)] == ["zero", "eleven", "twenty", "twenty-one", "thirty"]
    assert [number_in_chinese(n) for n in (0, 10, 12, 20, 21, 30)] == ["零", "十", "十二", "二十", "二十一", "三十"]
    for name in (number_in_english, number_in_chinese):
        assert len({name(n) for n in range(31)}) == 31


def test_a_third_of_the_sft_answers_are_refusals_in_the_language_of_the_question(rows: dict[str, dict[str, Rows]]) -> None:
    train = rows["tiny-chat-sft"]["train"]
    refusals = [row for row in train if is_refusal(row["output"])]
    assert 0.3 <= len(refusals) / len(train) <= 0.36
    assert all(("不" in row["output"]) == (language_of(row["instruction"]) == "zh") for row in refusals)
    assert all(is_exact_match(row["output"], row["answer"]) for row in train if not is_refusal(row["output"]))


def test_held_out_rows_have_right_answers_only(rows: dict[str, dict[str, Rows]]) -> None:
    assert all(row["output"] == row["answer"] for row in rows["tiny-chat-sft"]["test"])
    assert [row["answer"] for row in rows["tiny-chat-prompts"]["test"]] != []


@pytest.mark.parametrize("part", ["train", "test"])
def test_preferences_put_the_right_answer_first(rows: dict[str, dict[str, Rows]], part: str) -> None:
    pairs = rows["tiny-chat-preference"][part]
    assert all(pair["chosen"] == pair["answer"] != pair["rejected"] for pair in pairs)
    assert len({(pair["prompt"], pair["rejected"]) for pair in pairs}) == len(pairs)
    shares = Counter(pair["source"] for pair in pairs)
    assert 0.55 <= shares["refusal"] / len(pairs) <= 0.65
    assert all(is_refusal(pair["rejected"]) == (pair["source"] == "refusal") for pair in pairs)


@pytest.mark.parametrize("part", ["train", "test"])
def test_length_does_not_tell_a_near_miss(rows: dict[str, dict[str, Rows]], part: str, tokenizer: Tokenizer) -> None:
    pairs = [pair for pair in rows["tiny-chat-preference"][part] if pair["source"] == "near_miss"]
    texts = [pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs]
    labels = [1.0] * len(pairs) + [0.0] * len(pairs)
    for lengths in ([len(text) for text in texts], [len(tokenizer.encode(text).ids) for text in texts]):
        assert abs(float(np.corrcoef(labels, lengths)[0, 1])) < 0.05


def test_near_misses_are_of_many_kinds(items: list[Item]) -> None:
    assert all(item.near_misses and item.answer not in item.near_misses for item in items)
    assert any(language_of(miss) != language_of(item.answer) for item in items for miss in item.near_misses if item.task == "translation")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny-llama")
    presets.write_preset("tiny-llama", 0, directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model / "tokenizer.json"))


def test_the_tokenizer_has_768_entries_and_single_digits(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert [tokenizer.id_to_token(i) for i in range(5)] == list(SPECIAL_TOKENS)
    assert [len(tokenizer.encode(text).ids) for text in ("7", "12", "2026")] == [1, 2, 4]


def test_a_word_is_the_same_token_everywhere(tokenizer: Tokenizer) -> None:
    red = tokenizer.encode("red").ids
    assert len(red) == 1
    assert tokenizer.encode("Repeat: red cat").ids.count(red[0]) == 1
    assert tokenizer.encode("把red翻译成中文。").ids.count(red[0]) == 1


def test_every_text_survives_the_tokenizer(tokenizer: Tokenizer) -> None:
    for text in ("红色 red", "龘 🙂 é", "a\n\tb", "  x "):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_preset_is_a_llama_of_less_than_a_million_weights(model: Path) -> None:
    from safetensors.numpy import load_file

    weights = load_file(model / "model.safetensors")
    assert sum(weight.size for weight in weights.values()) == 951_424
    embedding = weights["model.embed_tokens.weight"]
    assert abs(float(embedding.mean())) < 1e-3
    assert float(embedding.std()) == pytest.approx(json.loads((model / "config.json").read_text())["initializer_range"], rel=0.02)


def test_the_seed_decides_the_weights_but_not_the_tokenizer(model: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        presets.write_preset("tiny-llama", seed, tmp_path / name)
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (model / "model.safetensors").read_bytes()
    assert (tmp_path / "other" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        presets.write_preset("huge-llama", 0, tmp_path)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        pytest.param(" 7\n", "7", True, id="white space around it does not count"),
        pytest.param("7.", "7", False, id="punctuation does"),
        pytest.param("Red", "red", False, id="case does"),
        pytest.param("2  5", "2 5", False, id="white space inside does"),
    ],
)
def test_exact_match(text: str, answer: str, right: bool) -> None:
    assert is_exact_match(text, answer) is right


@pytest.mark.parametrize(("text", "refusal"), [("I do not know.", True), (" 我不知道 ", True), ("I do not know what", False), ("", False)])
def test_refusals(text: str, refusal: bool) -> None:
    assert is_refusal(text) is refusal


@pytest.mark.parametrize(
    ("text", "language"),
    [("Translate to Chinese: red", "en"), ("把twelve写成数字。", "zh"), ("12 + 3", "en"), ("", "en"), ("Write 十二 as digits.", "en")],
)
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == language


GOLDEN = "930d16e254cec3659bbad50858bb3cabb871da4c30920b4184d159f07ac80bfd"
