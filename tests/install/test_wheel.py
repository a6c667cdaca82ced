"""The built wheel, installed where there is no checkout, runs every command."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from medseg.cli.help import HELP

CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHECKOUT / "pyproject.toml").is_file(), reason="needs the checkout to build from"
    ),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, CHECKOUT],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """Runs medseg from the wheel in an empty folder, with this environment's other packages."""
    root = tmp_path_factory.mktemp("elsewhere")
    venv.create(root / "venv", with_pip=False)
    packages = Path(
        sysconfig.get_path("purelib", vars={"base": str(root / "venv"), "platbase": str(root)})
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # After the venv's own folder, so that the wheel's medseg comes first.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    work = root / "work"
    work.mkdir()
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "MEDSEG", "COV"))
    }
    environment["MEDSEG_CACHE"] = str(root / "cache")

    def run(*words, code: int = 0) -> str:
        python = root / "venv" / "bin" / "python"
        done = subprocess.run(
            [python, "-m", "medseg", *words],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.work = work
    run.packages = packages
    return run


def test_the_wheel_holds_the_configuration_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()

    assert "medseg/conf/train.yaml" in names
    assert "medseg/conf/model/unet.yaml" in names
    assert not [name for name in names if name.startswith(("tests/", "conf/"))]
    assert len(names) == len(set(names))


def test_the_wheels_own_package_and_options_are_used(elsewhere):
    searched = elsewhere("train", "--info", "searchpath")

    assert f"file://{elsewhere.packages / 'medseg' / 'conf'} " in searched
    assert str(CHECKOUT) not in searched


@pytest.mark.parametrize("command", HELP)
def test_every_command_shows_its_help(elsewhere, command):
    assert f"python -m medseg {command}" in elsewhere(command, "--help")


@pytest.mark.parametrize("command", HELP)
def test_every_command_shows_its_configuration(elsewhere, command):
    out = elsewhere(command, "--cfg", "job")

    assert "paths:\n  runs: runs\n" in out
    assert "hydra:" not in out


def test_an_experiment_checks_where_there_is_no_checkout(elsewhere):
    assert "fits the code" in elsewhere("train", "+experiment=liver", "dry_run=true")
    assert list(elsewhere.work.iterdir()) == []


def test_the_working_folders_own_options_are_found(elsewhere):
    own = elsewhere.work / "conf" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [{override /data: liver}]\nname: mine\n"
    )

    try:
        assert "name: mine" in elsewhere("train", "+experiment=mine", "--cfg", "job")
    finally:
        (own / "mine.yaml").unlink()
        own.rmdir()
        own.parent.rmdir()


def test_one_epoch_on_phantoms_gives_a_bundle(elsewhere):
    out = elsewhere(
        "train",
        "+experiment=liver",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "loader=debug",
        "data.source.num_cases=6",
        "data.source.num_held_out=1",
        "+data.num_folds=2",
        "model.spatial_dims=2",
        code=0,
    )

    assert "bundle" in out
    (card,) = elsewhere.work.glob("runs/**/card.yaml")
    assert "synthetic phantoms" in card.read_text()


def test_an_editable_install_reads_the_checkouts_options(tmp_path):
    script = "from medseg.config.compose import conf_dir; print(conf_dir())"
    if not (CHECKOUT / "medseg").is_dir():
        pytest.skip("the checkout's package was removed")

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert Path(done.stdout.strip()) == CHECKOUT / "conf"
