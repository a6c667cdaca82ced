"""Rules are chosen where they raise the mean Dice of all cases, and only there."""

import numpy as np
import phantoms
import pytest
import torch

from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.inference.postprocess import Postprocess
from medseg.inference.selection import (
    THRESHOLDS,
    choose_components,
    choose_foreground,
    choose_thresholds,
    count_components,
    count_thresholds,
    mean_dice,
)
from medseg.tasks.decoding import decode

LABELS = phantoms.TWO_LABELS
SHAPE = (36, 30, 22)  # a voxel has 2 x 2.5 x 3.5 = 17.5 mm3


def label_map(*boxes: tuple[int, tuple[slice, ...]], labels: LabelSet = LABELS) -> LabelMap:
    array = np.zeros(SHAPE, np.uint8)
    for class_id, box in boxes:
        array[box] = class_id
    return LabelMap(array, phantoms.grid(), labels)


LIVER = (1, np.s_[4:14, 4:14, 4:14])
TUMOUR = (2, np.s_[6:9, 6:9, 6:9])
SPECK = (1, np.s_[30:32, 20:22, 15:17])  # 8 voxels, 140 mm3
TUMOUR_SPECK = (2, np.s_[30:31, 20:22, 15:17])  # 4 voxels, 70 mm3


def chosen(pairs, *, given: Postprocess | None = None, labels: LabelSet = LABELS, **options):
    given = given or Postprocess()
    counts = [count_components(truth, given.apply(found), labels) for truth, found in pairs]
    return choose_components(counts, labels, given=given, **options)


def measured(pairs, rules: Postprocess, labels: LabelSet = LABELS) -> np.ndarray:
    """Mean Dice of each structure, counted on the images themselves."""
    rows = []
    for truth, found in pairs:
        after = rules.apply(found)
        row = []
        for structure in labels.structures:
            a = np.isin(truth.array, structure.class_ids)
            b = np.isin(after.array, structure.class_ids)
            total = a.sum() + b.sum()
            row.append(2 * (a & b).sum() / total if total else np.nan)
        rows.append(row)
    known = (column[np.isfinite(column)] for column in np.array(rows).T)
    return np.array([column.mean() if len(column) else np.nan for column in known])


def test_specks_beside_an_organ_make_its_largest_component_a_rule():
    pairs = [(label_map(LIVER), label_map(LIVER, SPECK))] * 2

    rules, decisions = chosen(pairs)

    assert rules.largest_component == ("liver",)
    (kept,) = (decision for decision in decisions if decision.is_kept)
    assert kept.rule == "liver: largest component"
    # 1000 voxels of liver and 8 of a speck.
    assert kept.before == pytest.approx(2 * 1000 / 2008)
    assert kept.after == pytest.approx(1.0)


def test_several_true_parts_call_for_a_smallest_volume_instead():
    parts = [(2, np.s_[4:8, 4:8, 4:8]), (2, np.s_[20:24, 4:8, 4:8])]  # 64 voxels, 1120 mm3 each
    pairs = [(label_map(*parts), label_map(*parts, TUMOUR_SPECK))] * 2

    rules, _ = chosen(pairs)

    assert rules.largest_component == ()
    (limit,) = rules.minimum_volume_mm3.values()
    assert 70 < limit <= 1120
    assert measured(pairs, rules)[1] == pytest.approx(1.0)


def test_a_rule_that_takes_as_much_as_it_gives_is_left_out():
    parts = [(2, np.s_[4:8, 4:8, 4:8]), (2, np.s_[20:22, 4:6, 4:6])]
    pairs = [(label_map(*parts), label_map(*parts))]

    rules, decisions = chosen(pairs)

    assert rules == Postprocess()
    assert not any(decision.is_kept for decision in decisions)


def test_a_gain_below_the_margin_is_none():
    pairs = [(label_map(LIVER), label_map(LIVER, SPECK))]  # a gain of 0.004

    assert chosen(pairs, min_gain=0.003)[0].largest_component == ("liver",)
    assert chosen(pairs, min_gain=0.005)[0] == Postprocess()


def test_holes_are_filled_where_the_reference_has_none():
    hollow = label_map(LIVER, (0, np.s_[8:10, 8:10, 8:10]))
    pairs = [(label_map(LIVER), hollow)]

    rules, decisions = chosen(pairs)

    assert rules.fill_holes == ("liver",)
    assert decisions[0].after == pytest.approx(1.0)
    assert measured(pairs, rules)[0] == pytest.approx(1.0)


def test_the_largest_foreground_must_not_cost_any_label():
    beside = (2, np.s_[14:16, 4:6, 4:6])  # touches the liver
    lost = (2, np.s_[20:24, 20:24, 4:8])
    good = [(label_map(LIVER, beside), label_map(LIVER, beside, SPECK, (2, np.s_[33, 5, 5])))]
    bad = [(label_map(LIVER, beside, lost), label_map(LIVER, beside, lost, SPECK))]

    for pairs, wanted in ((good, True), (bad, False)):
        counts = [count_components(*pair, LABELS) for pair in pairs]
        is_kept, (decision,) = choose_foreground(counts, LABELS)
        assert is_kept is wanted
        after = measured(pairs, Postprocess(largest_foreground=True))
        assert decision.after == pytest.approx(np.mean(after))


def test_counts_foretell_what_the_rules_do_to_the_images():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(3):
        noise = rng.random(SHAPE)
        truth = label_map(LIVER, TUMOUR)
        found = truth.array.copy()
        found[noise > 0.985] = 1
        found[noise < 0.015] = 2
        pairs.append((truth, LabelMap(found, truth.geometry, LABELS)))

    rules, decisions = chosen(pairs)

    assert rules.largest_component or rules.minimum_volume_mm3
    for n, name in enumerate(("liver", "tumour")):
        for decision in decisions:
            if decision.rule == f"{name}: largest component":
                alone = Postprocess(largest_component=[name])
                assert decision.after == pytest.approx(measured(pairs, alone)[n])


def test_regions_lose_their_inner_regions_with_a_component():
    labels = LabelSet.from_mapping(
        {"background": 0, "liver": 1, "tumour": 2, "regions": {"organ": [1, 2], "lesion": [2]}}
    )
    truth = label_map(LIVER, TUMOUR, labels=labels)
    found = label_map(LIVER, TUMOUR, SPECK, TUMOUR_SPECK, labels=labels)

    rules, decisions = chosen([(truth, found)], labels=labels)

    assert "organ" in rules.largest_component
    by_rule = {decision.rule: decision for decision in decisions}
    assert by_rule["organ: largest component"].after == pytest.approx(1.0)
    assert np.array_equal(rules.apply(found).array, truth.array)


def test_ignored_voxels_count_neither_way():
    labels = LabelSet.from_names(LABELS.names, ignore_id=255)
    truth = label_map(LIVER, (255, SPECK[1]), labels=labels)
    found = label_map(LIVER, SPECK, labels=labels)

    rules, _ = chosen([(truth, found)], labels=labels)

    assert rules == Postprocess()


def test_a_threshold_is_chosen_that_finds_what_even_odds_miss():
    # The tumour's logit stays 0.5 below the background's: a probability of 0.38.
    reference = np.zeros((8, 8, 8), np.int16)
    reference[2:5, 2:5, 2:5] = 2
    logits = torch.full((3, 8, 8, 8), -5.0)
    logits[0] = 0.0
    logits[2][torch.from_numpy(reference == 2)] = -0.5

    rules, decisions = choose_thresholds([count_thresholds(logits, reference, LABELS)], LABELS)

    assert rules.threshold == {"tumour": 0.3}
    moved = logits + torch.tensor(rules.logit_offsets(LABELS))[:, None, None, None]
    assert np.array_equal(decode(moved, LABELS).numpy(), reference)
    (kept,) = (decision for decision in decisions if decision.is_kept)
    assert kept.before == 0.0
    assert kept.after == pytest.approx(1.0)


@pytest.mark.parametrize("has_regions", [False, True])
def test_counts_foretell_what_thresholds_do(has_regions):
    mapping = {"background": 0, "rim": 1, "core": 2, "ignore": 7}
    if has_regions:
        mapping["regions"] = {"whole": [1, 2], "inner": [2]}
    labels = LabelSet.from_mapping(mapping)
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(labels.num_outputs, 9, 8, 7, generator=generator)
    reference = torch.randint(0, 3, (9, 8, 7), generator=generator).numpy()
    reference[0] = 7

    counts = count_thresholds(logits, reference, labels)

    for n, structure in enumerate(labels.structures):
        for m, value in enumerate(THRESHOLDS):
            rules = Postprocess(threshold={structure.name: value})
            moved = logits + torch.tensor(rules.logit_offsets(labels))[:, None, None, None]
            found = decode(moved, labels).numpy()
            for e, other in enumerate(labels.structures):
                inside = np.isin(found, other.class_ids) & (reference != 7)
                common = inside & np.isin(reference, other.class_ids)
                wanted = [int(common.sum()), int(inside.sum())]
                assert (counts.base[e, :2] + counts.gains[n, m, e]).tolist() == wanted


def test_mean_dice_leaves_out_cases_without_the_structure():
    counts = np.array([[[2, 4, 4], [0, 0, 0]], [[0, 0, 6], [0, 0, 0]]])

    found = mean_dice(counts)

    assert found[0] == pytest.approx((0.5 + 0.0) / 2)
    assert np.isnan(found[1])
