"""The report of two models on three small cases: what it says, and what it must not."""

import base64
import gzip
import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from browser import LOOKS, PATIENCE_MS, Complaints, chromium, faint, overflowing, shown
from playwright.sync_api import Locator, Page, expect
from report_files import rows, shown_numbers

from medseg.cli.commands import main

AFFINE = np.diag([1.5, 2.0, 4.0, 1.0])
LABELS = "labels={background: 0, liver: 1, tumour: 2}"


def save(folder: Path, key: str, array: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / f"{key}.nii.gz")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Folder of an evaluation of good and poor predictions; case c has no tumour."""
    root = tmp_path_factory.mktemp("study")
    for n, key in enumerate("abc"):
        truth = np.zeros((16, 14, 10), np.uint8)
        truth[3:12, 3:11, 2:8] = 1
        if key != "c":
            truth[5 + n : 9, 5:9, 4:7] = 2
        noise = np.random.default_rng(n).normal(0, 5, truth.shape)
        save(root / "images", key, (truth * 50 + noise).astype(np.float32))
        save(root / "references", key, truth)
        good, poor = truth.copy(), truth.copy()
        good[11] = 0
        poor[8 + n :] = 0
        save(root / "good", key, good)
        save(root / "poor", key, poor)
        shares = np.stack([np.where(good == c, 0.8, 0.1) for c in range(3)], -1)
        save(root / "good", f"{key}_probabilities", shares.astype(np.float32))
    (root / "groups.csv").write_text("case,site\na,north\nb,north\nc,<south>\n")
    code = main(
        [
            "evaluate",
            f"predictions=[{root / 'good'},{root / 'poor'}]",
            LABELS,
            "report=html",
            f"references={root / 'references'}",
            f"images={root / 'images'}",
            f"groups={root / 'groups.csv'}",
            f"paths.output={root / 'out'}",
            "metrics.num_resamples=200",
        ]
    )
    assert code == 0
    return root / "out"


def test_every_score_on_the_page_is_that_of_the_csv_to_the_last_digit(report):
    shown = shown_numbers(report)
    for model in ("good", "poor"):
        for row in rows(report / model / "scores.csv"):
            if row["status"] == "absent":
                continue
            for metric in ("dice", "nsd", "hd95_mm", "assd_mm", "reference_ml", "prediction_ml"):
                key = f"{model}/{row['case']}/{row['label']}/{metric}"
                assert shown[key] == pytest.approx(float(row[metric]), abs=0, nan_ok=True), key


def test_every_mean_on_the_page_is_that_of_the_json(report):
    shown = shown_numbers(report)
    for model in ("good", "poor"):
        content = json.loads((report / model / "scores.json").read_text())
        for label, metrics in content["labels"].items():
            for metric in ("dice", "iou", "nsd", "hd95_mm", "assd_mm", "volume_difference_ml"):
                assert shown[f"summary/{model}/{label}/{metric}"] == metrics[metric]["mean"]


def test_the_other_tables_on_the_page_are_those_of_their_files(report):
    shown = shown_numbers(report)
    expected = {}
    for row in rows(report / "comparison.csv"):
        key = f"comparison/{row['first']}/{row['second']}/{row['label']}/{row['metric']}"
        expected |= {f"{key}/{name}": row[name] for name in ("first_mean", "difference")}
    for row in rows(report / "groups.csv"):
        place = "/".join(row[name] for name in ("model", "grouping", "group", "label", "metric"))
        expected[f"groups/{place}"] = row["mean"]
    for row in rows(report / "agreement.csv"):
        key = f"agreement/{row['model']}/{row['label']}"
        expected |= {f"{key}/{name}": row[name] for name in ("mean_ml", "lower_ml", "upper_ml")}
    for row in rows(report / "confusion.csv"):
        expected[f"confusion/{row['model']}/{row['reference']}/{row['prediction']}/voxels"] = row[
            "voxels"
        ]
    for row in rows(report / "calibration.csv"):
        if float(row["high"]) - float(row["low"]) == 1:
            key = f"calibration/{row['model']}"
            expected[f"{key}/brier"] = row["brier"]
            expected[f"{key}/expected_calibration_error"] = row["expected_calibration_error"]

    assert len(expected) > 60
    for key, value in expected.items():
        assert shown[key] == pytest.approx(float(value), abs=0, nan_ok=True), key


def test_agreement_is_the_mean_difference_and_its_limits(report):
    scores = [row for row in rows(report / "poor" / "scores.csv") if row["label"] == "liver"]
    gaps = [float(row["volume_difference_ml"]) for row in scores]

    (row,) = [
        row
        for row in rows(report / "agreement.csv")
        if (row["model"], row["label"]) == ("poor", "liver")
    ]

    assert float(row["mean_ml"]) == pytest.approx(np.mean(gaps))
    assert float(row["upper_ml"]) == pytest.approx(np.mean(gaps) + 1.96 * np.std(gaps, ddof=1))


def test_the_confusion_counts_all_voxels_of_all_cases(report):
    table = {
        (row["reference"], row["prediction"]): int(row["voxels"])
        for row in rows(report / "confusion.csv")
        if row["model"] == "good"
    }

    assert sum(table.values()) == 3 * 16 * 14 * 10
    assert table["liver", "background"] == 3 * 8 * 6  # the slice that was cut off
    assert table["background", "liver"] == 0


def test_the_page_needs_nothing_from_outside_and_ends_no_element_early(report):
    text = (report / "report.html").read_text()

    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(", text)
    assert "<south>" not in text
    assert "&lt;south&gt;" in text
    assert len(text) < 400_000


def test_a_case_is_packed_with_its_slices_and_surfaces(report):
    text = (report / "report.html").read_text()
    packed = re.search(
        r'data-case="a".*?<script type="text/plain">([^<]*)</script>', text, re.DOTALL
    )
    body = gzip.decompress(base64.b64decode(packed.group(1)))
    end = body.index(b"\n")
    head = json.loads(body[:end])
    voxels = int(np.prod(head["shape"]))
    wanted = voxels * (head["channels"] + len(head["maps"]))
    wanted += sum(6 * (part["vertices"] + part["triangles"]) for part in head["surfaces"])

    assert len(body) - end - 1 == wanted
    assert head["maps"] == ["reference", "prediction good", "prediction poor"]
    assert {part["label"] for part in head["surfaces"]} == {"liver", "tumour"}
    assert head["spacing"] == [1.5, 2.0, 4.0]


def test_no_patient_is_named_on_the_page(tmp_path):
    from phantoms import sphere
    from pydicom import dcmread

    from medseg.dicom.ct_series import write_ct_series

    for path in write_ct_series(
        sphere(inside=300.0), tmp_path / "dicom" / "case", case_key="c", seed=0
    ):
        header = dcmread(path)
        header.PatientName, header.PatientID = "LEAK^TEST", "LEAK-ID"
        header.PatientBirthDate = "19310417"
        header.save_as(path)
    folders = [f"source.folder={tmp_path / 'dicom'}", f"paths.output={tmp_path / 'found'}"]
    assert main(["predict", "baseline=otsu", *folders]) == 0

    code = main(
        [
            "evaluate",
            f"predictions={tmp_path / 'found'}",
            f"references={tmp_path / 'found'}",
            f"images={tmp_path / 'dicom'}",
            "report=html",
            f"paths.output={tmp_path / 'out'}",
        ]
    )

    assert code == 0
    packed = 0
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert not re.search(rb"LEAK|19310417", path.read_bytes()), path
            for text in re.findall(rb'<script type="text/plain">([^<]*)<', path.read_bytes()):
                packed += 1
                assert not re.search(rb"LEAK|19310417", gzip.decompress(base64.b64decode(text)))
    assert packed == 1


def open_cases(page: Page) -> Locator:
    """The cases of a page, after all were scrolled to and have unpacked themselves."""
    cases = page.locator(".case[data-case]")
    for case in cases.all():
        case.scroll_into_view_if_needed()
        # Not by wait_for_function, whose second try the page's policy forbids.
        expect(case).to_have_attribute("data-state", "open", timeout=PATIENCE_MS)
    return cases


@pytest.mark.slow
def test_a_browser_shows_the_page_without_complaint(report):
    url = (report / "report.html").as_uri()

    with chromium() as browser:
        for width, scheme in LOOKS:
            with shown(browser, url, width=width, scheme=scheme) as (page, complaints):
                cases = open_cases(page)

                assert cases.count() == 3
                for text in cases.locator("output").all_inner_texts():
                    assert re.fullmatch(r"\d+ / \d+", text)
                assert complaints == Complaints(), (width, scheme)
                assert overflowing(page) == [], (width, scheme)
                assert faint(page) == [], (width, scheme)


@pytest.mark.slow
def test_wheel_slider_and_keys_move_through_the_slices(report):
    with chromium() as browser, shown(browser, (report / "report.html").as_uri()) as (page, said):
        plane = open_cases(page).first.locator("[data-plane=transverse]")
        canvas, slider, output = (plane.locator(name) for name in ("canvas", "input", "output"))

        def seen() -> tuple[str, str]:
            return output.inner_text(), canvas.evaluate("c => c.toDataURL()")

        slider.fill("3")
        before = seen()
        assert before[0] == "4 / 10"

        canvas.hover()
        page.mouse.wheel(0, 100)
        expect(output).to_have_text("5 / 10", timeout=PATIENCE_MS)
        assert seen()[1] != before[1]

        page.mouse.wheel(0, -100)
        expect(output).to_have_text("4 / 10", timeout=PATIENCE_MS)
        assert seen() == before

        canvas.click()
        page.keyboard.press("ArrowRight")
        expect(output).to_have_text("5 / 10", timeout=PATIENCE_MS)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        expect(output).to_have_text("3 / 10", timeout=PATIENCE_MS)
        assert seen()[1] != before[1]
        assert said == Complaints()


@pytest.mark.slow
def test_a_table_is_sorted_and_surfaces_are_turned_by_keyboard(report):
    with chromium() as browser, shown(browser, (report / "report.html").as_uri()) as (page, said):
        table = page.locator("table.sortable").last
        button = table.get_by_role("button", name="Dice")
        column = "rows => rows.map((row) => row.cells[4].dataset.value).filter((v) => v !== 'nan')"

        def dice() -> list[float]:
            return [float(value) for value in table.locator("tbody tr").evaluate_all(column)]

        table.get_by_role("button").first.focus()
        for _ in range(4):
            page.keyboard.press("Tab")
        expect(button).to_be_focused(timeout=PATIENCE_MS)
        page.keyboard.press("Enter")
        assert dice() == sorted(dice())
        page.keyboard.press("Space")
        assert dice() == sorted(dice(), reverse=True)
        assert len(set(dice())) > 3

        solid = open_cases(page).first.locator("[data-surfaces] canvas")
        before = solid.evaluate("c => c.toDataURL()")
        solid.focus()
        page.keyboard.press("ArrowLeft")
        assert solid.evaluate("c => c.toDataURL()") != before
        page.keyboard.press("ArrowRight")
        assert solid.evaluate("c => c.toDataURL()") == before
        assert said == Complaints()
