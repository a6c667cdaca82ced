import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image
from scipy import ndimage

from medseg.core.errors import ConfigError, InputError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.reports.evaluation import ScoreSettings, evaluate_folders, score_cases

LABELS = LabelSet.from_names(["background", "liver", "tumour"])
AFFINE = np.array([[0, 2.0, 0, 5], [-1.5, 0, 0, 7], [0, 0, 4.0, -30], [0, 0, 0, 1]])


def box(*, depth: int = 4, tumour: int = 0) -> np.ndarray:
    """A liver of 5 x 4 x `depth` voxels with a tumour of 2 x 2 x `tumour`."""
    array = np.zeros((11, 9, 7), np.uint8)
    array[2:7, 3:7, 1 : 1 + depth] = 1
    array[3:5, 4:6, 1 : 1 + tumour] = 2
    return array


def in_memory(array: np.ndarray, affine: np.ndarray = AFFINE) -> LabelMap:
    return LabelMap(array, Geometry(array.shape, affine))


def save(folder: Path, affine: np.ndarray = AFFINE, **arrays: np.ndarray) -> Path:
    """Label maps written with nibabel, not with our own writer."""
    folder.mkdir(exist_ok=True, parents=True)
    for key, array in arrays.items():
        nib.save(nib.Nifti1Image(array, affine), folder / f"{key}.nii.gz")
    return folder


def test_cases_in_memory_are_scored_in_the_order_of_their_keys():
    pairs = [
        ("b", in_memory(box()), in_memory(box(depth=2))),
        ("a", in_memory(box()), in_memory(box())),
    ]

    evaluation = score_cases(pairs, LabelSet.from_names(["background", "liver"]))

    assert [(score.case, score.label, score.dice) for score in evaluation.scores] == [
        ("a", "liver", 1.0),
        ("b", "liver", pytest.approx(2 / 3)),
    ]
    assert evaluation.is_complete


def test_label_maps_can_be_given_as_functions_that_read_them():
    evaluation = score_cases([("a", lambda: in_memory(box()), in_memory(box()))], LABELS)

    assert evaluation.scores[0].dice == 1.0


def test_only_a_few_cases_are_read_ahead():
    taken = 0
    most_open = 0
    scored = 0
    lock = threading.Lock()

    def pairs():
        nonlocal taken, most_open
        for n in range(60):
            with lock:
                taken += 1
                most_open = max(most_open, taken - scored)
            yield f"case_{n:02}", in_memory(box()), in_memory(box())

    def count():
        nonlocal scored
        with lock:
            scored += 1

    num_cores = len(__import__("os").sched_getaffinity(0))
    score_cases(pairs(), LABELS, on_progress=count)

    assert scored == 60
    assert most_open <= 2 * num_cores + 2


def test_a_case_that_fails_does_not_stop_the_others():
    def broken() -> LabelMap:
        raise InputError("scan_2.nii.gz", "is cut off", "copy it again", code="E_TRUNCATED")

    def surprising() -> LabelMap:
        raise ZeroDivisionError("no luck with Doe^Jane")

    pairs = [
        ("scan_1", in_memory(box()), in_memory(box())),
        ("scan_2", broken, in_memory(box())),
        ("scan_3", surprising, in_memory(box())),
        ("scan_4", in_memory(box()), in_memory(box(), AFFINE + np.eye(4)[::-1] * 3)),
        ("scan_5", in_memory(box()), in_memory(box())),
    ]

    evaluation = score_cases(pairs, LABELS)

    assert {score.case for score in evaluation.scores} == {"scan_1", "scan_5"}
    assert [(problem.case, problem.code) for problem in evaluation.problems] == [
        ("scan_2", "E_TRUNCATED"),
        ("scan_3", "E_UNEXPECTED"),
        ("scan_4", "E_GRID"),
    ]
    assert evaluation.problems[0].message == "scan_2.nii.gz: is cut off; copy it again"
    assert evaluation.problems[1].message.startswith(
        "scan_3: failed with ZeroDivisionError in test_"
    )
    assert "Doe" not in evaluation.problems[1].message
    assert not evaluation.is_complete


def test_every_case_has_a_score_for_every_class_found():
    pairs = [
        ("a", in_memory(box(tumour=2)), in_memory(box(tumour=2))),
        ("b", in_memory(box()), in_memory(box())),
    ]

    evaluation = score_cases(pairs, None)

    assert [(score.case, score.label, score.status) for score in evaluation.scores] == [
        ("a", "label_1", "both"),
        ("a", "label_2", "both"),
        ("b", "label_1", "both"),
        ("b", "label_2", "absent"),
    ]


def test_settings_reach_the_measurement_and_the_summary():
    pairs = [("a", in_memory(box()), in_memory(box(depth=3)))]

    strict = score_cases(pairs, LABELS, settings=ScoreSettings(surface_dice_tolerance_mm=0.0))
    lenient = score_cases(
        pairs, LABELS, settings=ScoreSettings(surface_dice_tolerance_mm=4.0, confidence=0.8)
    )

    assert strict.scores[0].nsd < 1.0
    assert lenient.scores[0].nsd == 1.0
    assert lenient.summarise().confidence == 0.8


def test_folders_are_matched_by_file_name(tmp_path):
    predictions = save(tmp_path / "p", a=box(), b=box(depth=2), extra=box())
    references = save(tmp_path / "r", a=box(), b=box(), c=box(), d=box())
    total, steps = [], []

    evaluation = evaluate_folders(
        predictions,
        references,
        labels=LABELS,
        on_start=total.append,
        on_progress=lambda: steps.append(1),
    )

    livers = [score for score in evaluation.scores if score.label == "liver"]
    assert [(score.case, score.dice) for score in livers] == [
        ("a", 1.0),
        ("b", pytest.approx(2 / 3)),
    ]
    assert evaluation.missing == ("c", "d")
    assert evaluation.unmatched == ("extra",)
    assert not evaluation.is_complete
    assert (total, len(steps)) == ([2], 2)


def test_missing_predictions_can_be_allowed(tmp_path):
    predictions = save(tmp_path / "p", a=box())
    references = save(tmp_path / "r", a=box(), b=box())

    evaluation = evaluate_folders(predictions, references, allow_missing=True)

    assert evaluation.is_complete


def test_of_a_dataset_only_the_predicted_cases_are_scored_with_its_label_names(tmp_path):
    predictions = save(tmp_path / "p", b=box(tumour=1))
    save(tmp_path / "Task" / "labelsTr", a=box(), b=box(tumour=2))
    (tmp_path / "Task" / "dataset.json").write_text(
        '{"labels": {"0": "background", "1": "organ", "2": "lesion"}}'
    )

    evaluation = evaluate_folders(predictions, tmp_path / "Task")

    assert evaluation.is_complete
    assert [(score.case, score.label) for score in evaluation.scores] == [
        ("b", "organ"),
        ("b", "lesion"),
    ]


def test_given_labels_go_before_those_of_the_dataset(tmp_path):
    predictions = save(tmp_path / "p", a=box())
    save(tmp_path / "Task" / "labelsTr", a=box())
    (tmp_path / "Task" / "dataset.json").write_text('{"labels": {"0": "background", "1": "x"}}')

    evaluation = evaluate_folders(predictions, tmp_path / "Task", labels=LABELS)

    assert [score.label for score in evaluation.scores] == ["liver", "tumour"]


def test_a_volume_in_millilitres_comes_from_the_files_spacing(tmp_path):
    predictions = save(tmp_path / "p", a=box())
    references = save(tmp_path / "r", a=box(depth=3))

    (score,) = evaluate_folders(predictions, references).scores

    assert score.reference_ml == pytest.approx(5 * 4 * 3 * 1.5 * 2.0 * 4.0 / 1000)
    assert score.hd95_mm == pytest.approx(4.0)


def test_formats_may_differ_between_the_folders(tmp_path):
    predictions, references = save(tmp_path / "p", a=box(depth=3)), tmp_path / "r"
    references.mkdir()
    save(tmp_path, a=box())
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")), str(references / "a.nii"))

    evaluation = evaluate_folders(predictions, references)

    assert evaluation.problems == ()
    assert evaluation.scores[0].dice == pytest.approx(2 * 60 / 140)


def test_folders_without_a_common_name_are_refused(tmp_path):
    predictions = save(tmp_path / "p", case_1=box())
    references = save(tmp_path / "r", liver_1=box(), liver_2=box())

    with pytest.raises(
        InputError,
        match=r"p: none of its 1 files \(first: case_1\) .* the 2 references in .*r "
        r"\(first: liver_1\); give prediction and reference of a case the same file name",
    ):
        evaluate_folders(predictions, references)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"surface_dice_tolerance_mm": -1.0},
            "metrics.surface_dice_tolerance_mm=-1: must be >= 0",
        ),
        ({"confidence": 95.0}, "metrics.confidence=95: must be between 0 and 1"),
        ({"num_resamples": 0}, "metrics.num_resamples=0: must be 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ScoreSettings(**options)


@pytest.mark.real_data
def test_scores_of_20_real_cases_equal_independent_computations(tmp_path, real_data):
    """Dice, IoU and border-voxel surface scores, straight from the definitions on whole volumes."""
    folder = real_data("Task04_Hippocampus")
    random = np.random.default_rng(0)
    files = sorted((folder / "labelsTr").glob("[!.]*.nii.gz"))[:20]
    for path in files:
        image = nib.load(path)
        blurred = ndimage.gaussian_filter(np.asarray(image.dataobj).astype(float), 0.9)
        noise = ndimage.gaussian_filter(random.normal(size=blurred.shape), 1.5)
        changed = np.clip(np.rint(blurred + 2 * noise), 0, 2).astype(np.uint8)
        (tmp_path / "p").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(changed, image.affine), tmp_path / "p" / path.name)

    evaluation = evaluate_folders(
        tmp_path / "p", folder, settings=ScoreSettings(surface="border_voxels")
    )

    assert len(evaluation.scores) == 40
    for score in evaluation.scores:
        image = nib.load(folder / "labelsTr" / f"{score.case}.nii.gz")
        prediction = nib.load(tmp_path / "p" / f"{score.case}.nii.gz")
        masks = [np.asarray(found.dataobj) == score.class_id for found in (image, prediction)]
        borders = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
        distances = [
            ndimage.distance_transform_edt(~borders[1 - n], sampling=image.header.get_zooms())[
                borders[n]
            ]
            for n in (0, 1)
        ]
        pooled = np.concatenate(distances)
        both = np.count_nonzero(masks[0] & masks[1])
        assert score.dice == pytest.approx(2 * both / (masks[0].sum() + masks[1].sum()), abs=1e-9)
        assert score.iou == pytest.approx(both / np.count_nonzero(masks[0] | masks[1]), abs=1e-9)
        assert score.nsd == pytest.approx(np.mean(pooled <= 1.0), abs=1e-9)
        assert score.assd_mm == pytest.approx(pooled.mean(), abs=1e-9)
        assert score.hd95_mm == pytest.approx(
            max(np.percentile(d, 95) for d in distances), abs=1e-9
        )


def test_2d_label_pictures_are_scored(tmp_path):
    for name, width in (("p", 6), ("r", 8)):
        picture = np.zeros((20, 30), np.uint8)
        picture[4:10, 5 : 5 + width] = 1
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / "cell.png")

    (score,) = evaluate_folders(tmp_path / "p", tmp_path / "r").scores

    assert score.dice == pytest.approx(2 * 36 / (36 + 48))
    assert score.hd95_mm == pytest.approx(2.0)  # pixels of unknown size count as 1 mm
