"""Names that two rooms must agree on."""

from rlhf_api import names
from rlhf_trainer.data.builtin.make import DATASETS
from rlhf_trainer.models.presets import PRESETS


def test_the_contract_knows_what_the_trainer_makes() -> None:
    assert names.BUILTINS == {"models": PRESETS, "datasets": DATASETS}
