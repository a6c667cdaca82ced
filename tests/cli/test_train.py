import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

import medseg
from medseg.cli.train import run
from medseg.config.check import load_config
from medseg.core.errors import ConfigError, MedsegError


def test_an_optimizer_that_needs_whole_weights_is_refused_where_they_are_shared_out(tmp_path):
    cfg = load_config("train", ["+experiment=liver", "trainer=fsdp", f"paths.runs={tmp_path}"])

    with pytest.raises(ConfigError, match="whole weights") as caught:
        run(cfg)

    assert caught.value.where == "optimizer"
    assert "optimizer=adamw" in caught.value.remedy


def test_a_dry_run_has_no_bundle_to_give_back():
    with pytest.raises(MedsegError, match=r'dry_run: is true.*load_config\("train"'):
        medseg.train("+experiment=liver", "dry_run=true")
    with pytest.raises(MedsegError, match=r'dry_run: is true.*load_config\("predict"'):
        medseg.predict("bundle", "images", output="out", overrides=["dry_run=true"])


def test_a_training_from_python_that_sigterm_ends_does_not_end_as_if_it_had_worked(monkeypatch):
    def stop(cfg):
        raise SIGTERMException

    monkeypatch.setattr("medseg.cli.train.run", stop)

    with pytest.raises(SystemExit) as leaving:
        medseg.train("+experiment=liver")

    assert leaving.value.code == 143
