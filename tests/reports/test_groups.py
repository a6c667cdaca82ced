import numpy as np
import pytest

from medseg.core.errors import InputError
from medseg.metrics.case_scores import CaseScore
from medseg.reports.case_facts import CaseFacts
from medseg.reports.evaluation import ScoreSettings
from medseg.reports.groups import groupings_of, read_groups, summarise_groups


def score(case: str, dice: float, volume_ml: float) -> CaseScore:
    nan = float("nan")
    return CaseScore(case, "liver", 1, "both", dice, nan, nan, nan, nan, volume_ml, 0, 0, nan)


def facts(case: str, spacing: float, scanner: str = "") -> CaseFacts:
    return CaseFacts(case, (4, 4, 4), (1.0, 1.0, spacing), "RAS", {}, scanner=scanner)


def test_cases_are_divided_by_scanner_spacing_and_size():
    cases = [facts("a", 1.0, "ACME"), facts("b", 5.0, "ACME"), facts("c", 5.0, "Other")]
    scores = [score("a", 0.9, 10.0), score("b", 0.8, 20.0), score("c", 0.4, 90.0)]

    found = {grouping.name: grouping for grouping in groupings_of(cases, scores)}

    assert found["scanner"].members == {"ACME": ("a", "b"), "Other": ("c",)}
    assert found["largest spacing"].members == {"1 mm": ("a",), "5 mm": ("b", "c")}
    sizes = found["size of the structure"].members
    assert [name.split()[0] for name in sizes] == ["small", "medium", "large"]
    assert list(sizes.values()) == [("a",), ("b",), ("c",)]


def test_a_group_has_the_mean_of_its_cases():
    cases = [facts("a", 1.0), facts("b", 5.0), facts("c", 5.0)]
    scores = [score("a", 0.9, 1.0), score("b", 0.8, 2.0), score("c", 0.4, 3.0)]
    groupings = [g for g in groupings_of(cases, scores) if g.name == "largest spacing"]

    found = summarise_groups(scores, groupings, settings=ScoreSettings(num_resamples=100))

    means = {group.group: group.summary.statistics["dice"].mean for group in found}
    assert means == {"1 mm": pytest.approx(0.9), "5 mm": pytest.approx(0.6)}


def test_cases_that_are_all_alike_are_no_groups():
    cases = [facts("a", 1.0), facts("b", 1.0)]

    assert groupings_of(cases, [score("a", 0.9, 1.0), score("b", 0.9, 1.0)]) == []


def test_many_spacings_become_thirds():
    cases = [facts(str(n), mm) for n, mm in enumerate(np.linspace(1, 6, 9))]

    (grouping,) = groupings_of(cases, [])

    assert [len(keys) for keys in grouping.members.values()] == [3, 3, 3]


def test_a_table_gives_groups_by_its_columns(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("case,site,reader\na,north,x\nb,,x\n")

    site, reader = read_groups(path)

    assert site.members == {"north": ("a",), "unknown": ("b",)}
    assert reader.members == {"x": ("a", "b")}


def test_a_table_without_cases_is_refused(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("patient,site\na,north\n")

    with pytest.raises(InputError, match=r"groups\.csv: has no column 'case'; name the cases in a"):
        read_groups(path)
    with pytest.raises(
        InputError, match=r"absent\.csv: cannot be read as CSV; set groups=<file.csv>"
    ):
        read_groups(tmp_path / "absent.csv")
