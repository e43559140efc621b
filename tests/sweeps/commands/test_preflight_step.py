"""A step that no trial could take is refused before there is a folder; what the trials find out ends the sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gatesweep.core.errors import InputError
from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.preflight import check_run
from gatesweep.sweeps.commands.preflight_step import check_step
from gatesweep.sweeps.commands.run import main
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.search.space import read_space
from tests.support.classifier import classifier

DROPOUT = "search.space={trainable:{width:{type:int,low:2,high:4}}}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainable.lr=-1.0", "the training step of Classifier raised ValueError: Invalid learning rate: -1.0"),
        ("trainable.fault=key", "the evaluate of Classifier raised KeyError: 'precision'; traceback in "),
        ("training.patience={metric:nope,epochs:2}", "training.patience.metric: got 'nope', expected one of "),
        ("training.patience={metric:train/nope,epochs:2}", "training.patience.metric: got 'train/nope'"),
    ],
)
def test_a_configuration_that_cannot_take_a_step_is_refused(override: str, message: str, tmp_path: Path) -> None:
    config = compose_config(classifier(tmp_path, DROPOUT, override))
    with pytest.raises(InputError) as caught:
        check_run(config, read_space(config))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_space_may_mend_the_configuration_and_random_states_are_kept(tmp_path: Path) -> None:
    config = compose_config(classifier(tmp_path, "trainable.lr=-1.0"))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_step(config, read_space(config))  # lr is searched
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("ray_here")
def test_trials_that_all_fail_alike_end_the_sweep(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    code = main(classifier(tmp_path, "trainable.fault=key", "trainable.from_epoch=2"))
    folder = (tmp_path / "latest").resolve()
    assert code == 1 and len(list(folder.glob("trial_*"))) == 3
    assert read_events(folder / "events.jsonl")[-1]["event"] == "interrupted"
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert "the first 3 trials failed alike: KeyError: 'precision'" in line and f"resume={folder}" in line
    assert "KeyError" in (folder / "trial_0002" / "error.txt").read_text() and "trial_0002/error.txt" in line
