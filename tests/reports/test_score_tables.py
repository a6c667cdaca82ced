import csv
import dataclasses
import json
import math

import pytest
from rich.console import Console

from medseg.core.errors import OutputError
from medseg.metrics.case_scores import CaseScore
from medseg.reports.evaluation import CaseProblem, Evaluation, ScoreSettings
from medseg.reports.score_tables import COLUMNS, scores_table, write_scores


def score(case: str, label: str, class_id: int, dice: float, status: str = "both") -> CaseScore:
    return dataclasses.replace(
        CaseScore.absent(case, label, class_id),
        status=status,
        dice=dice,
        iou=dice / (2 - dice),
        nsd=0.875,
        hd95_mm=3.5 if status == "both" else math.nan,
        assd_mm=0.25 if status == "both" else math.nan,
        reference_ml=1500.0,
        prediction_ml=1490.0,
        volume_difference_ml=-10.0,
    )


EVALUATION = Evaluation(
    scores=(
        score("case_1", "liver", 1, 0.9),
        score("case_1", "tumour, large", 2, 0.6),
        score("case_2", "liver", 1, 0.8),
        score("case_2", "tumour, large", 2, 0.0, status="missed"),
    ),
    problems=(CaseProblem("case_3", "E_GRID", "case_3: the grids differ"),),
    missing=("case_4",),
    unmatched=("case_5",),
    settings=ScoreSettings(surface_dice_tolerance_mm=2.0),
)


def shown(table, width: int = 140) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(table)
    return console.export_text()


def test_the_csv_has_one_row_per_case_and_label_with_full_numbers(tmp_path):
    csv_path, _ = write_scores(EVALUATION, EVALUATION.summarise(), tmp_path / "out")

    with csv_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert csv_path == tmp_path / "out" / "scores.csv"
    assert tuple(rows[0]) == COLUMNS
    assert [(row["case"], row["label"]) for row in rows] == [
        ("case_1", "liver"),
        ("case_1", "tumour, large"),
        ("case_2", "liver"),
        ("case_2", "tumour, large"),
    ]
    assert float(rows[0]["iou"]) == 0.9 / 1.1
    assert rows[3]["status"] == "missed"
    assert math.isnan(float(rows[3]["hd95_mm"]))


def test_the_json_has_means_intervals_counts_and_definitions(tmp_path):
    summary = EVALUATION.summarise()

    _, json_path = write_scores(
        EVALUATION, summary, tmp_path, model={"name": "liver", "sha256": "ab"}
    )

    def refuse(constant):
        raise ValueError(constant)

    report = json.loads(json_path.read_text(), parse_constant=refuse)  # no NaN: strict JSON
    assert report["num_cases"] == 2
    assert report["labels"]["liver"]["dice"]["mean"] == pytest.approx(0.85)
    assert report["labels"]["liver"]["dice"]["interval"] == [
        summary.labels[0].statistics["dice"].low,
        summary.labels[0].statistics["dice"].high,
    ]
    assert report["labels"]["liver"]["dice"]["n"] == 2
    assert report["labels"]["tumour, large"]["num_missed"] == 1
    assert report["labels"]["tumour, large"]["hd95_mm"]["n"] == 1
    assert report["labels"]["tumour, large"]["hd95_mm"]["interval"] is None
    assert report["overall"]["dice"]["mean"] == pytest.approx((0.85 + 0.3) / 2)
    assert report["tolerance_mm"] == 2.0
    assert report["bootstrap"] == {"confidence": 0.95, "num_resamples": 2000, "seed": 0}
    assert set(COLUMNS[4:]) <= set(report["definitions"])
    assert report["model"] == {"name": "liver", "sha256": "ab"}
    assert report["problems"] == [
        {"case": "case_3", "code": "E_GRID", "message": "case_3: the grids differ"}
    ]
    assert report["missing_predictions"] == ["case_4"]
    assert report["predictions_without_reference"] == ["case_5"]
    assert report["versions"]["medseg"]


def test_an_evaluation_without_scores_is_written_too(tmp_path):
    evaluation = Evaluation(scores=(), problems=EVALUATION.problems)

    csv_path, json_path = write_scores(evaluation, evaluation.summarise(), tmp_path)

    assert csv_path.read_text().splitlines() == [",".join(COLUMNS)]
    assert json.loads(json_path.read_text())["overall"]["dice"]["mean"] is None


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(OutputError, match=r"scores\.csv: cannot be written .*; check the folder"):
        write_scores(EVALUATION, EVALUATION.summarise(), tmp_path / "file")


def test_the_table_shows_means_intervals_and_missed_cases():
    text = shown(scores_table(EVALUATION.summarise(), title="test cases"))

    assert "test cases: mean and 95% interval, 2 cases" in text
    liver = next(line for line in text.splitlines() if line.strip().startswith("liver"))
    assert liver.split() == ["liver", "2", "0", "0.850", "0.742", "0.875", "3.50", "0.25", "-10.00"]
    assert "0.800 to 0.900" in text
    assert "missed" in text
    assert "spurious" not in text
    assert "overall" in text


def test_the_table_of_one_class_has_no_overall_row():
    evaluation = Evaluation(scores=EVALUATION.scores[::2])

    assert "overall" not in shown(scores_table(evaluation.summarise()))


def test_numbers_that_do_not_exist_are_shown_as_a_dash():
    evaluation = Evaluation(scores=(EVALUATION.scores[3],))

    text = shown(scores_table(evaluation.summarise()))

    row = next(line for line in text.splitlines() if line.strip().startswith("tumour"))
    assert row.split()[-3:-1] == ["-", "-"]
    assert "nan" not in text
