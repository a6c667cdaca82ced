import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from learning_cases import write_blocks

import medseg
from medseg.cli import resuming
from medseg.cli.resuming import require_same_training, sole_use
from medseg.core.errors import ConfigError, OutputError
from medseg.data.split import Split

SPLIT = Split(("a", "b"), ("c",), (), 0, 3, 0)
SETTINGS = {
    "seed": 0,
    "fold": 0,
    "trainer": {"max_epochs": 5},
    "data": {"name": "blocks", "labels": {"box": 1}, "source": {"folder": "/old"}},
    "plan": {"patch_size": [16, 16, 8], "spacing_mm": [1.0, 1.0, 1e-05], "reasons": {"a": "b"}},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.002},
    "loader": {"steps_per_epoch": 5, "num_workers": None},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    split = {key: list(v) if isinstance(v, tuple) else v for key, v in SPLIT.to_dict().items()}
    (tmp_path / "split.yaml").write_text(yaml.safe_dump(split))
    return tmp_path


def test_a_training_goes_on_longer_elsewhere_and_with_other_workers(folder):
    moved = {**SETTINGS["data"], "source": {"folder": "/new"}}
    changed = {
        **SETTINGS,
        "trainer": {"max_epochs": 50},
        "data": moved,
        "plan": {**SETTINGS["plan"], "patch_size": (16, 16, 8), "reasons": {}},
        "loader": {"steps_per_epoch": 5, "num_workers": 4},
    }

    require_same_training(changed, SPLIT, folder=folder)


@pytest.mark.parametrize(
    ("section", "value", "told"),
    [
        ("seed", 4, "seed was 0, is 4"),
        ("plan", {**SETTINGS["plan"], "patch_size": [8, 8, 8]}, "was [16, 16, 8], is [8, 8, 8]"),
        ("optimizer", {"_target_": "torch.optim.SGD", "lr": 0.002}, "optimizer._target_ was"),
        ("optimizer", {"_target_": "torch.optim.AdamW", "lr": 0.1}, "optimizer.lr was 0.002"),
        ("data", {"name": "blocks", "labels": {"box": 1, "lid": 2}}, "data.labels.lid was not set"),
        ("loader", {"steps_per_epoch": 9}, "loader.steps_per_epoch was 5, is 9"),
    ],
)
def test_a_setting_that_changed_is_named(folder, section, value, told):
    with pytest.raises(ConfigError) as caught:
        require_same_training({**SETTINGS, section: value}, SPLIT, folder=folder)

    assert caught.value.where == str(folder)
    assert told in caught.value.what
    assert "name=<name>" in caught.value.remedy
    assert caught.value.code == "E_RESUME"


def test_cases_that_changed_sides_are_an_error(folder):
    with pytest.raises(ConfigError) as caught:
        require_same_training(
            SETTINGS, replace(SPLIT, train=("a", "c"), validation=("b",)), folder=folder
        )

    assert "the cases of the train set differ" in caught.value.what
    assert "the cases of the validation set differ" in caught.value.what


def test_two_trainings_cannot_share_a_folder(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from medseg.cli.resuming import sole_use\n"
            "with sole_use(pathlib.Path(sys.argv[1])): print('held', flush=True); input()",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"

    with pytest.raises(OutputError) as caught, sole_use(tmp_path):
        pass

    assert caught.value.where == str(tmp_path)
    assert caught.value.what == "is in use by another training"
    assert "name=<name>" in caught.value.remedy
    holder.kill()
    holder.wait()
    with sole_use(tmp_path):
        pass


def test_further_processes_of_one_training_share_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")

    assert not resuming.is_first_process()
    with sole_use(tmp_path):
        assert not (tmp_path / ".lock").exists()


def test_a_changed_training_is_refused_and_the_old_one_stays_as_it_was(tmp_path):
    write_blocks(tmp_path / "blocks", 3)
    words = [
        "data=folder", f"data.source.folder={tmp_path / 'blocks'}", "data.modality=MR",
        "data.labels={background: 0, box: 1, corner: 2}", "data.num_folds=3", "name=blocks",
        f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", "trainer=cpu",
        "trainer.max_epochs=1", "loader=debug", "plan.base_channels=4", "logger=none",
    ]  # fmt: skip
    medseg.train(*words, "plan.patch_size=[8,8,8]")
    run = tmp_path / "runs" / "blocks" / "fold_0"
    kept = {path: path.read_bytes() for path in run.glob("*.*")}

    with pytest.raises(ConfigError, match="resume=true"):
        medseg.train(*words, "plan.patch_size=[8,8,8]")
    with pytest.raises(ConfigError, match=r"plan.patch_size was \[8, 8, 8\], is \[16, 16, 8\]"):
        medseg.train(*words, "plan.patch_size=[16,16,8]", "resume=true")

    assert {path: path.read_bytes() for path in run.glob("*.*")} == kept
    assert medseg.train(*words, "plan.patch_size=[8,8,8]", "resume=true").folder == run / "bundle"
