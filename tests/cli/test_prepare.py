"""`medseg prepare` killed, twice at once and on a full disk; and pictures of any colour."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from learning_cases import write_blocks
from PIL import Image

from medseg.cli.commands import main

NUM_CASES = 150


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        "prepare", "data=folder", f"data.source.folder={folder / 'blocks'}",
        "data.labels={background: 0, box: 1, corner: 2}", "data.modality=MR", "name=blocks",
        f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}", "trainer=cpu",
        "plan.base_channels=4", *more,
    ]  # fmt: skip


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "medseg", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def contents(cache: Path) -> dict[str, tuple[int, int]]:
    """Every whole entry of the cache, with what changes if it is written again."""
    entries = [*(cache / "facts").glob("[!.]*"), *(cache / "cases").glob("[!.]*")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in entries}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["facts", "cases"])
def test_a_killed_prepare_goes_on_where_it_was(tmp_path, stage):
    write_blocks(tmp_path / "blocks", NUM_CASES)
    process = start(*arguments(tmp_path))
    while process.poll() is None and len(list((tmp_path / "cache" / stage).glob("[!.]*"))) < 5:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = contents(tmp_path / "cache")

    again = start(*arguments(tmp_path))
    output, _ = again.communicate(timeout=120)

    assert process.returncode == -signal.SIGKILL
    assert 5 <= len(before) < 2 * NUM_CASES
    assert again.returncode == 0, output
    after = contents(tmp_path / "cache")
    assert len(after) == 2 * NUM_CASES
    assert before.items() <= after.items()  # nothing is made twice


@pytest.mark.slow
def test_two_at_once_on_an_empty_cache_do_not_harm_each_other(tmp_path):
    write_blocks(tmp_path / "blocks", 30)

    processes = [start(*arguments(tmp_path, f"name=run_{n}")) for n in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(contents(tmp_path / "cache")) == 60
    first, second = (
        (tmp_path / "runs" / f"run_{n}" / "fold_0" / "plan.yaml").read_text() for n in range(2)
    )
    assert first == second


@pytest.mark.parametrize("full", ["facts", "cases"])
def test_a_full_disk_is_told_and_leaves_no_broken_cache(tmp_path, small_disk, full, capsys):
    # Facts of a case take up to 8 kB, a prepared case some 40.
    write_blocks(tmp_path / "blocks", 200 if full == "facts" else 25)
    options = arguments(tmp_path, f"paths.cache={small_disk}")

    code = main(options)

    message = " ".join(capsys.readouterr().err.split())
    assert code == 1
    assert "No space left on device" in message
    assert ("free some room" if full == "cases" else "free space") in message
    assert not list(small_disk.glob("*/.*"))
    assert len(list((small_disk / "cases").glob("*"))) == 0 or full == "cases"

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main(options) == 0  # with what is there and what was missing


def write_pictures(folder: Path, *kinds: str) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for n, kind in enumerate(kinds):
        rng = np.random.default_rng(n)
        label = np.zeros((48, 48), np.uint8)
        label[8 + n : 24 + n, 10:30] = 1
        grey = (label * 120 + rng.integers(0, 60, label.shape)).astype(np.uint8)
        colours = {"grey": grey, "equal": np.stack([grey] * 3, -1)}.get(
            kind, np.stack([grey, grey // 2, 255 - grey], -1)
        )
        Image.fromarray(colours).save(folder / "images" / f"case_{n}.png")
        Image.fromarray(label).save(folder / "labels" / f"case_{n}.png")


@pytest.mark.parametrize(
    ("kinds", "channels"),
    [(["grey", "equal", "grey", "equal"], 1), (["grey", "colour", "grey", "equal"], 3)],
)
@pytest.mark.filterwarnings("ignore")
def test_pictures_of_mixed_colour_are_trained_on_and_predicted(tmp_path, kinds, channels, capsys):
    write_pictures(tmp_path / "pictures", *kinds)

    trained = main(
        [
            "train", "data=folder", f"data.source.folder={tmp_path / 'pictures'}",
            "data.labels={background: 0, box: 1}", "data.num_folds=2", "trainer=cpu",
            "trainer.max_epochs=1", "loader.steps_per_epoch=1", "name=pictures",
            "plan.base_channels=4", f"paths.runs={tmp_path / 'runs'}", "logger=csv",
            f"paths.cache={tmp_path / 'cache'}",
        ]
    )  # fmt: skip
    assert trained == 0, capsys.readouterr()
    bundle = tmp_path / "runs" / "pictures" / "fold_0" / "bundle"
    predicted = main(
        [
            "predict", f"bundle={bundle}", f"source.folder={tmp_path / 'pictures' / 'images'}",
            f"paths.output={tmp_path / 'out'}",
        ]
    )  # fmt: skip

    card = yaml.safe_load((bundle / "card.yaml").read_text())
    assert card["network"]["options"]["in_channels"] == channels
    assert predicted == 0, capsys.readouterr()
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 4
