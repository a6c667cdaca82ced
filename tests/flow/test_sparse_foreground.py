"""Training finds a structure that is next to nothing of the image."""

from __future__ import annotations

import json

import pytest
from rare_target import rare_target, write_rare_targets

from medseg.cli.commands import main


def test_brightness_alone_does_not_find_the_target():
    image, mask = rare_target(0, shape=(64, 64, 48), radius=2.5, num_distractors=6)

    bright = image > 200

    assert mask.sum() == 81  # whole positions within 2.5 of the middle
    assert 2 * (bright & (mask > 0)).sum() / (bright.sum() + mask.sum()) < 0.25


@pytest.mark.slow
def test_a_structure_of_less_than_a_thousandth_is_learnt(tmp_path):
    share = write_rare_targets(
        tmp_path / "rare", 10, shape=(64, 64, 48), radius=2.5, num_distractors=6
    )
    assert share < 0.0005

    code = main(
        [
            "train", "data=folder", f"data.source.folder={tmp_path / 'rare'}", "recipe=fast",
            "trainer=cpu", "trainer.max_epochs=8", "name=rare", "plan.patch_size=[24,24,24]",
            "plan.base_channels=8", f"paths.runs={tmp_path / 'runs'}", "logger=none",
            f"paths.cache={tmp_path / 'cache'}",
        ]
    )  # fmt: skip

    assert code == 0
    scores = json.loads((tmp_path / "runs" / "rare" / "fold_0" / "scores.json").read_text())
    # A threshold reaches 0.25 at best (above), an untrained network 0.
    assert scores["overall"]["dice"]["mean"] > 0.5
