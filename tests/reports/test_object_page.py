"""The report of two models on three small cases of objects: what it says and shows."""

import base64
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import object_cases
import pytest
from browser import LOOKS, PATIENCE_MS, Complaints, chromium, faint, overflowing, shown
from playwright.sync_api import expect
from report_files import rows, shown_numbers

from medseg.cli.commands import main
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap
from medseg.core.volume import Volume
from medseg.writers.instance_files import write_instances
from medseg.writers.nifti_file import write_nifti

GRIDS = {
    "a": Geometry.from_spacing((40, 32, 10), spacing_mm=(1.0, 1.0, 2.0)),
    "b": Geometry.from_spacing((30, 36, 8), spacing_mm=(1.0, 1.0, 2.0)),
    "flat": Geometry.from_spacing((48, 36, 1), spacing_mm=(0.5, 0.5, 1.0)),
}


def numbers_of(key: str) -> np.ndarray:
    """Objects 1 and 2 touch; 3 and 4 are apart."""
    array = np.zeros(GRIDS[key].shape, np.uint16)
    depth = slice(1, 7) if array.shape[2] > 1 else slice(0, 1)
    for number, (i, j) in enumerate([(4, 4), (10, 4), (20, 12), (8, 22)], start=1):
        array[i : i + 6, j : j + 7, depth] = number
    return array


def save(
    folder: Path, key: str, array: np.ndarray, score: float, labels: LabelSet | None = None
) -> None:
    geometry = GRIDS[key]
    found = InstanceSet.from_map(array, geometry, labels=labels)
    scores = np.linspace(score, score + 0.05, len(found)).astype(np.float32)
    volume = Volume(np.zeros((1, *geometry.shape), np.float32), geometry)
    case = Case(key, read_image=lambda: volume, paths=(Path(f"{key}.nii.gz"),))
    folder.mkdir(parents=True, exist_ok=True)
    write_instances(replace(found, scores=scores), case, folder=folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Folders of images, references and two predictions: `good` has lost a slice of one object,
    `poor` has lost object 1, found a false one and does not name its classes.
    """
    root = tmp_path_factory.mktemp("objects")
    for n, (key, geometry) in enumerate(GRIDS.items()):
        truth = numbers_of(key)
        noise = np.random.default_rng(n).normal(0, 8, truth.shape)
        (root / "images").mkdir(exist_ok=True)
        write_nifti(
            (truth * 30 + noise).astype(np.float32), geometry, root / "images" / f"{key}.nii.gz"
        )
        (root / "references").mkdir(exist_ok=True)
        write_nifti(truth * 5, geometry, root / "references" / f"{key}.nii.gz")
        good, poor = truth.copy(), truth.copy()
        good[20] = 0
        poor[poor == 1] = 0
        poor[24:29, 24:30] = 9
        save(root / "good", key, good, 0.9, object_cases.NUCLEI)
        save(root / "poor", key, poor, 0.6 - 0.02 * n)
    (root / "groups.csv").write_text("case,site\na,north\nb,north\nflat,<south>\n")
    return root


def evaluate(study: Path, out: Path, predictions: str, *more: str) -> int:
    return main(
        ["evaluate", f"predictions={predictions}", f"references={study / 'references'}",
         f"images={study / 'images'}", f"groups={study / 'groups.csv'}", "report=html",
         "metrics.num_resamples=200", f"paths.output={out}", *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(study) -> Path:
    assert evaluate(study, study / "out", f"[{study / 'good'},{study / 'poor'}]") == 0
    return study / "out"


def test_every_number_on_the_page_is_that_of_a_file_to_the_last_digit(report):
    page = shown_numbers(report)
    expected = {}
    for model in ("good", "poor"):
        for row in rows(report / model / "scores.csv"):
            place = f"{model}/{row['case']}/{row['label']}"
            expected |= {f"{place}/{name}": row[name] for name in ("accuracy", "f1", "pq")}
        scores = json.loads((report / model / "scores.json").read_text())["labels"]["nucleus"]
        place = f"summary/{model}/nucleus"
        expected |= {f"{place}/{name}": scores[name] for name in ("ap50", "ap", "pq", "sq", "rq")}
        expected[f"{place}/accuracy"] = scores["iou"]["0.50"]["accuracy"]
        for size in scores["sizes"]:
            if size["num_references"]:
                place = f"sizes/{model}/nucleus/{size['name']}"
                expected[f"{place}/sensitivity"] = size["sensitivity"]
    for row in rows(report / "comparison.csv"):
        place = f"comparison/{row['first']}/{row['second']}/{row['label']}/{row['metric']}"
        expected |= {f"{place}/{name}": row[name] for name in ("first_mean", "difference")}
    for row in rows(report / "counts.csv"):
        place = f"counts/{row['model']}/{row['label']}"
        expected |= {f"{place}/{name}": row[name] for name in ("mean", "lower", "upper")}
    for row in rows(report / "groups.csv"):
        place = "/".join(row[name] for name in ("model", "grouping", "group", "label", "metric"))
        expected[f"groups/{place}"] = row["value"]

    assert len(expected) > 60
    for key, value in expected.items():
        assert page[key] == pytest.approx(float(value), abs=0, nan_ok=True), key


def test_scores_are_those_of_the_objects_lost_and_added(report):
    page = shown_numbers(report)
    poor = json.loads((report / "poor" / "scores.json").read_text())["labels"]["nucleus"]

    # Of each case three objects of four are found, and one is false.
    assert page["summary/poor/nucleus/accuracy"] == pytest.approx(3 / 5)
    assert page["poor/flat/nucleus/pq"] == pytest.approx(3 / 4)
    assert page["comparison/good/poor/nucleus/accuracy/difference"] == pytest.approx(3 / 5 - 1)
    assert page["counts/poor/nucleus/mean"] == 0
    assert poor["intervals"]["accuracy"] == pytest.approx([3 / 5, 3 / 5])  # all cases are alike
    assert page["groups/poor/site/<south>/nucleus/f1"] == pytest.approx(6 / 8)


def test_a_case_is_packed_with_its_objects_and_what_became_of_them(report):
    text = (report / "report.html").read_text()
    packed = re.search(
        r'data-case="a".*?<script type="text/plain">([^<]*)</script>', text, re.DOTALL
    )
    body = gzip.decompress(base64.b64decode(packed.group(1)))
    end = body.index(b"\n")
    head = json.loads(body[:end])
    voxels = int(np.prod(head["shape"]))

    assert head["maps"] == ["reference", "prediction good", "prediction poor"]
    assert head["kinds"]["prediction good"] == {"reference": "rrrr", "prediction": "hhhh"}
    assert head["kinds"]["prediction poor"] == {"reference": "mrrr", "prediction": "hhhf"}
    assert len(body) - end - 1 == voxels * (head["channels"] + 4 * len(head["maps"]))
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    assert "<south>" not in text


def test_parts_of_label_maps_have_the_same_page(study, tmp_path):
    for folder in ("classes", "true_classes"):
        (tmp_path / folder).mkdir()
        for key, geometry in GRIDS.items():
            array = (numbers_of(key) > 2).astype(np.uint8)  # two objects that do not touch
            if folder == "classes" and key == "a":
                array[array.shape[0] // 2 :] = 0
            write_nifti(
                LabelMap(array, geometry).array, geometry, tmp_path / folder / f"{key}.nii.gz"
            )

    code = evaluate(
        study,
        tmp_path / "out",
        str(tmp_path / "classes"),
        f"references={tmp_path / 'true_classes'}",
        "instances_from=components",
        "labels={background: 0, nucleus: {id: 1, thing: true}}",
    )

    page = shown_numbers(tmp_path / "out")
    assert code == 0
    assert page["classes/a/nucleus/accuracy"] == 0.5
    assert page["classes/b/nucleus/accuracy"] == 1.0
    assert "FROC" not in re.sub("<p.*?</p>", "", (tmp_path / "out" / "report.html").read_text())


def test_objects_are_not_combined(study, tmp_path, capsys):
    both = f"[{study / 'good'},{study / 'poor'}]"

    assert evaluate(study, tmp_path, both, "ensembles=[majority]") == 1

    told = capsys.readouterr()
    assert "ensembles: is ['majority'], but label maps alone can be combined" in told.out + told.err


def test_objects_and_classes_are_compared_only_where_parts_are_objects(study, tmp_path, capsys):
    both = f"[{study / 'good'},{study / 'references'}]"

    assert evaluate(study, tmp_path, both) == 1

    told = capsys.readouterr()
    text = " ".join((told.out + told.err).split())
    assert "predictions: number their objects in good, but not in references" in text
    assert "instances_from=components" in text


@pytest.mark.slow
def test_a_browser_shows_objects_without_complaint(report):
    with chromium() as browser:
        for width, scheme in LOOKS:
            url = (report / "report.html").as_uri()
            with shown(browser, url, width=width, scheme=scheme) as (page, complaints):
                cases = page.locator(".case[data-case]")
                for case in cases.all():
                    case.scroll_into_view_if_needed()
                    expect(case).to_have_attribute("data-state", "open", timeout=PATIENCE_MS)

                assert cases.count() == 3
                assert complaints == Complaints(), (width, scheme)
                assert overflowing(page) == [], (width, scheme)
                assert faint(page) == [], (width, scheme)


@pytest.mark.slow
def test_objects_scroll_and_their_kinds_and_models_are_switched(report):
    with chromium() as browser, shown(browser, (report / "report.html").as_uri()) as (page, said):
        case = page.locator(".case[data-case=a]")
        case.scroll_into_view_if_needed()
        expect(case).to_have_attribute("data-state", "open", timeout=PATIENCE_MS)
        canvas = case.locator("[data-plane=transverse] canvas")
        output = case.locator("[data-plane=transverse] output")

        def seen() -> str:
            return canvas.evaluate("c => c.toDataURL()")

        good = seen()
        case.get_by_label("prediction poor").check()
        poor = seen()
        assert poor != good
        case.locator("input[data-kind=f]").uncheck()
        assert seen() not in (good, poor)
        case.locator("input[data-kind=f]").check()
        assert seen() == poor

        before = output.inner_text()
        canvas.hover()
        page.mouse.wheel(0, 100)
        expect(output).not_to_have_text(before, timeout=PATIENCE_MS)
        assert seen() != poor

        # Two squares that touch have a line each, and a ring has one outside and one inside.
        count = """(rows) => [...outlinesOf(rows[0].length, rows.length,
          (x, y) => Number(rows[y]?.[x] ?? 0))]
          .map(([n, loops]) => [n, loops.map((loop) => loop.length)])"""
        assert page.evaluate(count, ["1122", "1122"]) == [[1, [8]], [2, [8]]]
        ring = page.evaluate(count, ["000", "333", "303", "333"])
        assert [(number, sorted(lengths)) for number, lengths in ring] == [(3, [4, 12])]
        assert said == Complaints()
