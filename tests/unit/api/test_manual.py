"""docs/fields.md is what the models say."""

import re
from pathlib import Path

from rlhf_api.crd.manual import manual
from rlhf_api.crd.schema import RULES, default_words
from rlhf_api.ppo import PPO

FIELDS = Path(__file__).parents[3] / "docs" / "fields.md"


def test_the_manual_is_up_to_date() -> None:
    assert FIELDS.read_text("utf-8") == manual(), "run: make golden"


def test_a_row_tells_type_range_default_and_meaning() -> None:
    assert "| `maxNewTokens` | an integer, 1 to 131072 | 512 | Longest answer in tokens. |" in manual()
    assert "| `stages` | list of [Stage](#stage), 1 to 10 items | required | Stages in order;" in manual()


def test_a_type_is_described_once_and_every_link_has_its_section() -> None:
    titles = re.findall(r"^### (.*)$", manual(), re.MULTILINE)
    assert len(titles) == len(set(titles))
    assert set(re.findall(r"\]\(#([^)]*)\)", manual())) <= {title.lower() for title in titles}


def test_every_rule_is_there() -> None:
    assert [rule.message for rule in RULES if rule.cel and f"- {rule.message}\n" not in manual()] == []


def test_every_row_has_four_cells() -> None:
    rows = [line for line in manual().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_words_of_a_default() -> None:
    words = {name: default_words(field) for name, field in PPO.model_fields.items()}
    assert (words["prompts"], words["steps"], words["top_p"], words["normalize_reward"], words["kl"]) == (
        "required",
        "–",
        "1.0",
        "true",
        "",
    )
