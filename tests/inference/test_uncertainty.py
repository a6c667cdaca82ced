import numpy as np
import pytest
import torch

from medseg.core.labels import LabelSet
from medseg.inference.uncertainty import Measure, PassMean, expected_dice

LABELS = LabelSet.from_names(["background", "liver", "tumour"])
REGIONS = LabelSet.from_mapping(
    {"background": 0, "liver": 1, "tumour": 2, "regions": {"organ": [1, 2], "lesion": [2]}}
)
SHAPE = (40, 40, 40)


def test_entropy_is_0_where_one_class_is_sure_and_1_where_all_are_equal():
    measure = Measure(LABELS)
    shares = torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])[..., None]

    # log 2 / log 3 of two equal classes among three
    torch.testing.assert_close(measure.entropy(shares)[:, 0], torch.tensor([0.0, 1.0, 0.63093]))


def test_entropy_of_regions_is_their_mean_in_bits():
    shares = torch.tensor([[0.5, 1.0], [0.11, 0.5]])[..., None]

    # H(0.11) is 0.49992 bits
    torch.testing.assert_close(
        Measure(REGIONS).entropy(shares)[:, 0], torch.tensor([0.5, 0.74996]), atol=1e-4, rtol=0
    )


def test_passes_that_contradict_each_other_disagree_and_equal_ones_do_not():
    sure = torch.zeros(1, 3, 2, 1, 1)
    sure[0, 0] = 30.0
    other = sure.clone()
    other[0, :, 1] = torch.tensor([0.0, 30.0, 0.0])[:, None, None]  # in the second voxel alone
    mean = PassMean(Measure(LABELS))

    mean.add(sure.clone())
    mean.add(other)
    result = mean.result()

    assert result.shape == (1, 4, 2, 1, 1)
    torch.testing.assert_close(result[0, :3, 1, 0, 0], torch.tensor([15.0, 15.0, 0.0]))
    torch.testing.assert_close(
        result[0, 3, :, 0, 0], torch.tensor([0.0, 0.63093]), atol=1e-4, rtol=0
    )


def dice(truth: np.ndarray, found: np.ndarray) -> float:
    return 2 * (truth & found).sum() / (truth.sum() + found.sum())


def fields(rng: np.random.Generator, count: int) -> np.ndarray:
    """Smooth random logits, so that there are structures with surfaces that are not sure."""
    coarse = torch.from_numpy(rng.normal(0, 4, (1, count, 6, 6, 6)))
    return torch.nn.functional.interpolate(coarse, SHAPE, mode="trilinear")[0].numpy()


@pytest.mark.parametrize("seed", range(5))
def test_the_expected_dice_is_the_true_one_if_probabilities_are_calibrated(seed):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(fields(rng, 3) + np.array([2.0, 0, 0])[:, None, None, None])
    shares = logits.softmax(0).numpy()
    # The truth is drawn with these very probabilities: that is what calibrated means.
    truth = (rng.random(SHAPE) > shares.cumsum(0)[:, :, :, :]).sum(0)
    decided = shares.argmax(0)

    found = expected_dice(decided, decided, shares.max(0)[None], shares.sum((1, 2, 3)), LABELS)

    for n, name in enumerate(("liver", "tumour"), start=1):
        true = dice(truth == n, decided == n)
        assert 0.3 < true < 0.98
        assert found[name] == pytest.approx(true, abs=0.01)


def test_the_expected_dice_of_regions_counts_all_their_classes():
    rng = np.random.default_rng(0)
    shares = torch.from_numpy(fields(rng, 2)).sigmoid().numpy()
    shares[1] *= shares[0]  # a lesion lies within the organ
    decided = np.where(shares[1] > 0.5, 2, np.where(shares[0] > 0.5, 1, 0))
    draw = rng.random(SHAPE)

    found = expected_dice(decided, decided, shares, shares.sum((1, 2, 3)), REGIONS)

    for n, (name, classes) in enumerate((("organ", (1, 2)), ("lesion", (2,)))):
        true = dice(draw < shares[n], np.isin(decided, classes))
        assert found[name] == pytest.approx(true, abs=0.01)


def test_overconfident_probabilities_promise_too_much_until_they_are_calibrated():
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(fields(rng, 2) / 2)
    shares = logits.softmax(0).numpy()
    truth = rng.random(SHAPE) < shares[1]
    labels = LabelSet.from_names(["background", "liver"])
    decided = shares.argmax(0)
    true = dice(truth, decided == 1)

    def promised(temperature: float) -> float:
        own = Measure(labels, temperature).shares(3 * logits[None])[0].numpy()
        found = expected_dice(decided, decided, own.max(0)[None], own.sum((1, 2, 3)), labels)
        return found["liver"]

    assert promised(1.0) > true + 0.1
    assert promised(3.0) == pytest.approx(true, abs=0.01)


def test_what_post_processing_takes_away_or_adds_counts_as_such():
    decided = np.zeros((10, 1, 1), int)
    decided[:4] = 1
    final = decided.copy()
    final[3] = 0  # removed as a small component
    final[4:6] = 1  # filled as a hole
    certainty = np.full((1, 10, 1, 1), 0.9)
    labels = LabelSet.from_names(["background", "liver"])

    found = expected_dice(final, decided, certainty, np.array([6.0, 4.0]), labels)

    # 3 voxels at 0.9 of 5 in the label map, with an expected size of 4
    assert found["liver"] == pytest.approx(2 * 2.7 / (5 + 4))


def test_a_structure_that_is_not_found_has_no_expected_dice():
    nothing = np.zeros(SHAPE, int)

    found = expected_dice(nothing, nothing, np.ones((1, *SHAPE)), np.array([64000, 0.1, 3]), LABELS)

    assert found == {"liver": None, "tumour": None}
