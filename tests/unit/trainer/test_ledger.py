"""Every numbered rule has a test and a mutant, `docs/numerics.md` says which, and no mutant is out of date."""

import re

import pytest

from tests.oracle import ledger
from tests.oracle.mutation import broken
from tests.oracle.source_mutants import MUTANTS, SourceMutant


def test_every_rule_has_a_test_and_a_mutant() -> None:
    assert ledger.gaps(ledger.proofs()) == []


def test_the_document_is_what_the_tests_say() -> None:
    assert ledger.DOCUMENT.read_text("utf-8") == ledger.document(), "run: python -m tests.oracle.ledger"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule} {mutant.name}")
def test_a_mutant_breaks_a_line_that_is_there_and_names_tests_that_exist(mutant: SourceMutant) -> None:
    compile(broken(mutant), mutant.file, "exec")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name.partition('[')[0]}\b", (ledger.REPOSITORY / file).read_text("utf-8"), re.MULTILINE), test
