"""Integers of eight bits are written only where labelled cases show that they cost little."""

from __future__ import annotations

import numpy as np
import pytest
from export_bundles import scan, small_bundle
from learning_cases import LABELS

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError, MedsegError
from medseg.core.identity import Case
from medseg.core.segmentation import LabelMap
from medseg.export import int8
from medseg.export.int8 import INT8, int8_files
from medseg.export.write import export_bundle
from medseg.inference.predictor import NetworkPredictor
from medseg.inference.sliding_window import SlidingWindow


def labelled(bundle, count):
    """Cases whose references are what the network says in PyTorch."""
    answer = NetworkPredictor(bundle, device="cpu", precision="32-true").predict_volume(scan())
    reference = LabelMap(answer.array, answer.geometry, LABELS)
    return [Case(f"case_{n}", scan, lambda: reference) for n in range(count)]


def test_too_few_labelled_cases_are_refused(tmp_path):
    bundle = small_bundle(tmp_path / "plain")
    cases = [*labelled(bundle, 3), *(Case(f"new_{n}", scan) for n in range(5))]

    with pytest.raises(ConfigError, match="4 labelled cases, 3 are given") as caught:
        export_bundle(bundle, [INT8], tmp_path / "exported", labelled=cases)

    assert "source.folder=<training cases>" in caught.value.remedy
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("dice", "is_accepted"),
    [((0.9, 0.899), True), ((0.9, 0.91), True), ((0.9, 0.897), False), ((0.9, np.nan), False)],
)
def test_what_costs_dice_is_not_written(dice, is_accepted, tmp_path, monkeypatch):
    bundle = small_bundle(tmp_path / "plain")
    cases = labelled(bundle, 7)
    asked = []

    def dice_of(_, cases, engine):
        asked.append([case.key for case in cases])
        return dice[engine == INT8]

    files = {".xml": b"network", ".bin": b"weights"}
    monkeypatch.setattr(int8, "exported_files", lambda *_: files)
    monkeypatch.setattr(int8, "_quantised", lambda *_: files)
    monkeypatch.setattr(int8, "_dice", dice_of)

    if is_accepted:
        found, loss = int8_files(bundle, cases)
        assert sorted(found) == [
            f"{INT8}/fold_{n}{ending}" for n in (0, 1) for ending in (".bin", ".xml")
        ]
        assert loss.num_cases == 4
    else:
        with pytest.raises(MedsegError, match="of the Dice") as caught:
            int8_files(bundle, cases)
        assert caught.value.code == "E_EXPORT"
    # Those that chose the ranges are not among them.
    assert asked == [["case_3", "case_4", "case_5", "case_6"]] * 2


@pytest.mark.slow
def test_integers_give_nearly_the_labels_of_single_precision(tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    pytest.importorskip("onnxscript")
    # Noise has few sure voxels, and a random network none.
    monkeypatch.setattr(int8, "MAX_LOSS", 0.2)
    bundle = small_bundle(tmp_path / "plain")

    found = export_bundle(bundle, [INT8], tmp_path / "exported", labelled=labelled(bundle, 4))

    exported = ModelBundle.load(tmp_path / "exported")
    assert len(exported.exports(INT8)) == 4
    assert exported.exports("openvino") == []
    assert exported.card["exports"][INT8]["cases"] == found[INT8].num_cases == 2
    predictor = NetworkPredictor(exported, inference=SlidingWindow(engine=INT8), device="cpu")
    reference = labelled(bundle, 1)[0].read_reference().array
    same = (predictor.predict_volume(scan()).array == reference).mean()
    assert 0.8 < same < 1
