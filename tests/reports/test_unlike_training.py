from dataclasses import replace
from pathlib import Path

import pytest

from medseg.bundle import ModelBundle
from medseg.core.labels import LabelSet
from medseg.data.plan import Plan
from medseg.reports.case_facts import CaseFacts
from medseg.reports.unlike_training import unlike_training

PLAN = Plan(
    orientation="RAS",
    spacing_mm=(0.8, 0.8, 2.5),
    normalisation=({"kind": "clip_zscore", "low": -50, "high": 200, "mean": 80.0, "std": 20.0},),
)
CARD = {
    "data": {"modality": "CT"},
    "network": {"class": "x", "options": {"in_channels": 1}},
}
BUNDLE = ModelBundle(Path(), PLAN, LabelSet.from_names(["background", "liver"]), {}, CARD, "")
LIKE = CaseFacts("like", (9, 9, 9), (2.5, 0.9, 0.9), "SRA", {}, {}, "CT", 1, ((10.0, 90.0, 150.0),))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modality": "MR"}, "modality MR, trained on CT"),
        ({"num_channels": 2}, "2 channels, trained on 1"),
        (
            {"spacing_mm": (0.8, 0.8, 9.0)},
            "spacing 0.8 x 0.8 x 9 mm, the plan's is 0.8 x 0.8 x 2.5",
        ),
        ({"foreground": ((0.0, 400.0, 500.0),)}, "foreground at 400, trained on 80 with spread 20"),
    ],
)
def test_what_differs_from_the_training_is_named(change, reason):
    found = unlike_training([LIKE, replace(LIKE, key="odd", **change)], BUNDLE)

    assert list(found) == ["odd"]
    assert len(found["odd"]) == 1
    assert reason in found["odd"][0]


def test_the_range_of_spacings_on_the_card_counts_before_the_plan():
    seen = {"spacing_mm": {"smallest": [0.7, 0.7, 2.0], "largest": [0.9, 0.9, 8.0]}}
    card = {**CARD, "data": {"modality": "CT", "fingerprint": seen}}
    bundle = replace(BUNDLE, card=card)

    found = unlike_training(
        [replace(LIKE, spacing_mm=(0.8, 0.8, 9.0)), replace(LIKE, key="b", spacing_mm=(0.8, 2, 5))],
        bundle,
    )

    assert list(found) == ["b"]
    assert "trained on 0.7 x 0.7 x 2 to 0.9 x 0.9 x 8 mm" in found["b"][0]
