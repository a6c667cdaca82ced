from dataclasses import replace

import numpy as np
import pytest
import yaml

from medseg.core.errors import ConfigError
from medseg.data.case_facts import Components
from medseg.data.fingerprint import CaseFingerprint, Fingerprint
from medseg.data.plan import Plan
from medseg.data.plan_rules import VOXEL_BUDGET
from medseg.data.planning import fit_to_network, make_plan


def fingerprint(
    *cases: tuple[tuple[int, int, int], tuple[float, float, float]],
    orientation: str = "RAS",
    intensity: tuple[tuple[float, ...], ...] = ((60.0, 30.0, -20.0, 130.0),),
) -> Fingerprint:
    return Fingerprint(
        tuple(
            CaseFingerprint(
                f"case_{n}", shape, spacing, orientation, len(intensity), (1, 1), intensity
            )
            for n, (shape, spacing) in enumerate(cases)
        ),
        intensity,
    )


def test_isotropic_cases_give_a_cube_that_fits_the_budget():
    plan = make_plan(
        fingerprint(((200, 200, 200), (1.0, 1.0, 1.0))), modality="MR", given=Plan(), device="cuda"
    )

    assert plan.spacing_mm == (1.0, 1.0, 1.0)
    assert plan.patch_size == (128, 128, 128)  # nnU-Net's for this budget
    assert plan.batch_size == 2
    assert plan.strides == ((1, 1, 1), *[(2, 2, 2)] * 5)
    assert plan.open_entries == ()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "case",
    [
        ((35, 51, 36), (1.0, 1.0, 1.0)),
        ((512, 512, 120), (0.75, 0.75, 2.5)),
        ((320, 320, 20), (0.6, 0.6, 3.6)),
        ((37, 19, 5), (1.0, 2.0, 8.0)),
        ((3, 3, 3), (1.0, 1.0, 1.0)),
    ],
)
def test_every_plan_is_a_multiple_of_its_strides_and_within_its_budget(case, dims, device):
    plan = make_plan(fingerprint(case), modality="CT", given=Plan(spatial_dims=dims), device=device)

    assert len(plan.patch_size) == dims
    assert all(p % s == 0 for p, s in zip(plan.patch_size, plan.stride, strict=True))
    assert 2 <= plan.batch_size <= 32
    # Rounding up to a multiple of the stride may cost up to a fifth per axis.
    assert np.prod(plan.patch_size) * plan.batch_size <= 1.8 * VOXEL_BUDGET[device]
    assert len(plan.strides) == len(plan.kernel_sizes) >= 2
    assert set(plan.reasons) >= {"spacing_mm", "patch_size", "strides", "batch_size"}


def test_spacing_is_the_median():
    cases = [((50, 50, 50), (a, 1.0, 1.2)) for a in (0.8, 1.0, 1.6)]

    assert make_plan(fingerprint(*cases), modality="MR", given=Plan()).spacing_mm == pytest.approx(
        (1.0, 1.0, 1.2)
    )


def test_a_coarse_axis_takes_a_finer_case_than_the_median():
    cases = [((200, 200, 30), (0.7, 0.7, thickness)) for thickness in (2.0, *[5.0] * 8, 6.0)]

    plan = make_plan(fingerprint(*cases), modality="MR", given=Plan())

    assert plan.spacing_mm[:2] == pytest.approx((0.7, 0.7))
    assert plan.spacing_mm[2] == pytest.approx(np.percentile([2.0, *[5.0] * 8, 6.0], 10), rel=1e-3)


def test_a_coarse_axis_is_neither_halved_nor_convolved_at_first():
    plan = make_plan(fingerprint(((256, 256, 24), (0.5, 0.5, 4.0))), modality="MR", given=Plan())

    assert plan.orientation == "RAS"
    assert plan.kernel_sizes[0] == (3, 3, 1)
    assert plan.strides[1] == (2, 2, 1)
    assert plan.kernel_sizes[-1] == (3, 3, 3)


@pytest.mark.parametrize(
    ("orientation", "spacing", "wanted"),
    [("RAS", (1, 1, 5), "RAS"), ("RSA", (1, 1, 5), "RSA"), ("PSR", (1, 1, 5), "ASR")],
)
def test_the_last_axis_runs_through_the_slices(orientation, spacing, wanted):
    case = ((64, 64, 12), spacing)

    plan = make_plan(fingerprint(case, orientation=orientation), modality="MR", given=Plan())

    assert plan.orientation == wanted
    assert plan.spacing_mm[2] == 5.0


def test_ct_takes_the_foregrounds_percentiles_mean_and_deviation():
    plan = make_plan(fingerprint(((64, 64, 64), (1, 1, 1))), modality="CT", given=Plan())

    assert plan.normalisation == (
        {"kind": "clip_zscore", "low": -20.0, "high": 130.0, "mean": 60.0, "std": 30.0},
    )


def test_mr_takes_each_images_own_values():
    two_channels = fingerprint(((64, 64, 64), (1, 1, 1)), intensity=((1, 1, 1, 1),) * 2)

    plan = make_plan(two_channels, modality="MR", given=Plan())

    assert plan.normalisation == ({"kind": "zscore"},) * 2


def test_pictures_are_planned_in_2d_as_they_are_stored():
    pictures = fingerprint(((640, 480, 1), (1.0, 1.0, 1.0)), orientation="LPS")

    plan = make_plan(pictures, modality="OT", given=Plan(spatial_dims=2))

    assert plan.orientation is None
    assert len(plan.patch_size) == 2
    assert plan.open_entries == ()


def test_pictures_are_planned_in_2d_whatever_the_network_is_set_to():
    plan = make_plan(fingerprint(((640, 480, 1), (1, 1, 1))), modality="OT", given=Plan())

    assert plan.spatial_dims == len(plan.patch_size) == 2
    assert plan.reasons["spatial_dims"] == "every image is a single slice"


def with_parts(pictures: Fingerprint, *diameters: float) -> Fingerprint:
    """Discs of these diameters in mm, one class each, in every picture."""
    parts = tuple(
        Components(1, *[np.pi / 4 * d**2 * pictures.cases[0].spacing_mm[2]] * 3) for d in diameters
    )
    cases = tuple(replace(case, components=parts) for case in pictures.cases)
    return replace(pictures, cases=cases)


def test_large_pictures_of_large_structures_are_made_coarser():
    # A patch has 24 000 pixels on CPU: 1000 x 1000 pixels are 6.45 times too many along each axis.
    pictures = fingerprint(((1000, 1000, 1), (0.5, 0.5, 3.0)), orientation="LPS")

    whole = make_plan(with_parts(pictures, 300.0, 400.0), modality="OT", given=Plan())
    limited = make_plan(with_parts(pictures, 300.0, 48.0), modality="OT", given=Plan())

    assert whole.spacing_mm == pytest.approx((3.227, 3.227, 3.0))
    assert whole.patch_size == (160, 160)
    # 48 mm are 96 pixels, of which 32 must be left.
    assert limited.spacing_mm == pytest.approx((1.5, 1.5, 3.0))
    assert "keeps at least 32 pixels across" in limited.reasons["spacing_mm"]


@pytest.mark.parametrize(
    ("shape", "diameter", "given", "device"),
    [
        ((1000, 1000, 1), 15.0, Plan(), "cpu"),  # 30 pixels across already
        ((140, 150, 1), 60.0, Plan(), "cpu"),  # fits into a patch
        ((700, 700, 1), 300.0, Plan(), "cuda"),  # likewise
        ((1000, 1000, 1), 300.0, Plan(spatial_dims=2, patch_size=(64, 64)), "cpu"),
    ],
)
def test_pictures_keep_their_pixels_where_nothing_is_gained(shape, diameter, given, device):
    pictures = with_parts(fingerprint((shape, (0.5, 0.5, 3.0)), orientation="LPS"), diameter)

    plan = make_plan(pictures, modality="OT", given=given, device=device)

    assert plan.spacing_mm == (0.5, 0.5, 3.0)
    assert "pixels across" not in plan.reasons["spacing_mm"]


def test_three_axes_set_by_hand_are_refused_for_pictures():
    given = Plan(patch_size=(32, 32, 32))

    with pytest.raises(ConfigError) as caught:
        make_plan(fingerprint(((640, 480, 1), (1, 1, 1))), modality="OT", given=given)

    assert caught.value.where == "plan.patch_size"
    assert "is [32, 32, 32], but every image is a single slice" in caught.value.what
    assert caught.value.remedy == "set model.spatial_dims=2 and give two numbers for each"


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((35, 50, 36), (32, 48, 32)),
        ((37, 55, 43), (40, 56, 40)),
        # 32 would cover less than 85 % of 38, and of 39 the next multiple is nearer.
        ((38, 39, 33), (40, 40, 32)),
    ],
)
def test_a_patch_is_the_nearest_multiple_that_covers_the_case(shape, patch):
    plan = make_plan(fingerprint((shape, (1.0, 1.0, 1.0))), modality="MR", given=Plan())

    assert plan.stride == (8, 8, 8)
    assert plan.patch_size == patch


def test_on_cpu_steps_are_small_and_the_finest_stage_light():
    cases = fingerprint(((35, 50, 36), (1.0, 1.0, 1.0)))

    on_cpu = make_plan(cases, modality="MR", given=Plan(), device="cpu")
    on_gpu = make_plan(cases, modality="MR", given=Plan(), device="cuda")

    assert (on_cpu.batch_size, on_cpu.light_finest) == (2, True)
    assert (on_gpu.batch_size, on_gpu.light_finest) == (32, False)
    assert "finest resolution" in on_cpu.reasons["light_finest"]
    assert (
        "light_finest"
        not in make_plan(cases, modality="MR", given=Plan(light_finest=False), device="cpu").reasons
    )


@pytest.mark.parametrize(
    ("stride", "least", "patch"),
    [((8, 8, 8), (1, 1, 1), (32, 48, 32)), ((32, 32, 32), (1, 1, 1), (32, 64, 32)),
     ((8, 8, 8), (64, 64, 64), (64, 64, 64)), ((6, 1, 1), (1, 1, 1), (48, 48, 32))],
)  # fmt: skip
def test_a_patch_grows_to_what_the_network_takes(stride, least, patch):
    cases = fingerprint(((35, 50, 36), (1.0, 1.0, 1.0)))
    plan = make_plan(cases, modality="MR", given=Plan())

    fitted = fit_to_network(plan, given=Plan(), stride=stride, min_size=least)

    assert fitted.patch_size == patch
    assert ("raised from 32x48x32" in fitted.reasons["patch_size"]) == (patch != (32, 48, 32))
    assert all(p % s == 0 for p, s in zip(fitted.patch_size, stride, strict=True))


def test_the_batch_follows_a_patch_that_grew_unless_set_by_hand():
    cases = fingerprint(((300, 300, 1), (1.0, 1.0, 1.0)))

    def fitted(given: Plan) -> Plan:
        plan = make_plan(cases, modality="OT", given=given)
        return fit_to_network(plan, given=given, stride=(256, 256), min_size=(1, 1))

    assert fitted(Plan(spatial_dims=2)).batch_size == 2  # of 96000 voxels, 256 x 256 a patch
    assert fitted(Plan(spatial_dims=2, batch_size=8)).batch_size == 8


@pytest.mark.parametrize(
    ("stride", "least", "what", "remedy"),
    [
        ((32, 32, 32), (1, 1, 1), "no multiple of the network's stride", "[32,64,32]"),
        ((8, 8, 8), (48, 48, 48), "smaller than the network's least input", "[48,48,48]"),
    ],
)
def test_a_patch_set_by_hand_is_not_changed_for_the_network(stride, least, what, remedy):
    given = Plan(patch_size=(32, 48, 32))
    plan = make_plan(fingerprint(((35, 50, 36), (1, 1, 1))), modality="MR", given=given)

    with pytest.raises(ConfigError) as caught:
        fit_to_network(plan, given=given, stride=stride, min_size=least)

    assert caught.value.where == "plan.patch_size"
    assert what in caught.value.what
    assert caught.value.remedy == f"set plan.patch_size={remedy}"


def coloured(*kinds: str) -> Fingerprint:
    cases = [
        replace(
            fingerprint(((64, 64, 1), (1.0, 1.0, 1.0))).cases[0],
            num_channels=1 if kind == "grey" else 3,
            colours=kind,
            value_range=((0.0, 255.0),) * (1 if kind == "grey" else 3),
        )
        for kind in kinds
    ]
    width = max(case.num_channels for case in cases)
    return Fingerprint(tuple(cases), ((60.0, 30.0, -20.0, 130.0),) * width)


@pytest.mark.parametrize(
    ("kinds", "colour", "norms"),
    [
        (("grey", "grey"), None, ["zscore"]),
        (("equal", "equal"), "grey", ["zscore"]),
        (("grey", "equal"), "grey", ["zscore"]),
        (("grey", "colour"), "rgb", ["scale_255"] * 3),
        (("grey", "equal", "colour"), "rgb", ["scale_255"] * 3),
        (("colour", "colour"), None, ["scale_255"] * 3),
        (("equal", "colour"), None, ["scale_255"] * 3),
    ],
)
def test_grey_and_coloured_pictures_share_channels(kinds, colour, norms):
    plan = make_plan(coloured(*kinds), modality="OT", given=Plan(spatial_dims=2))

    assert plan.colour == colour
    assert [row["kind"] for row in plan.normalisation] == norms
    assert plan.num_channels == len(norms)


def test_numbers_set_by_hand_are_kept():
    given = Plan(
        spacing_mm=(2.0, 2.0, 3.0),
        patch_size=(32, 48, 16),
        batch_size=3,
        base_channels=8,
        orientation="LPS",
    )

    plan = make_plan(fingerprint(((100, 100, 60), (1, 1, 1))), modality="MR", given=given)

    for name in ("spacing_mm", "patch_size", "batch_size", "base_channels", "orientation"):
        assert tuple(np.atleast_1d(getattr(plan, name))) == tuple(
            np.atleast_1d(getattr(given, name))
        )
        assert name not in plan.reasons


def test_a_patch_that_is_no_multiple_of_the_strides_gets_the_nearest():
    given = Plan(patch_size=(30, 32, 32), strides=((1, 1, 1), (4, 4, 4)))

    with pytest.raises(ConfigError) as caught:
        make_plan(fingerprint(((64, 64, 64), (1, 1, 1))), modality="MR", given=given)

    assert caught.value.where == "plan.patch_size"
    assert "is 30x32x32, no multiple of the network's stride 4x4x4" in caught.value.what
    assert caught.value.remedy == "set plan.patch_size=[32,32,32]"


def test_a_patch_larger_than_every_case_gets_the_largest_that_fits():
    given = Plan(patch_size=(128, 64, 64))

    with pytest.raises(ConfigError) as caught:
        make_plan(fingerprint(((61, 70, 64), (1, 1, 1))), modality="MR", given=given)

    assert "is 128x64x64, larger than the largest case, 61x70x64 voxels" in caught.value.what
    assert caught.value.remedy == "set plan.patch_size=[64,64,64] or less"


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ({"spatial_dims": 4}, "plan.spatial_dims"),
        ({"patch_size": (32, 32)}, "plan.patch_size"),
        ({"patch_size": (32, 32, 0)}, "plan.patch_size"),
        ({"batch_size": 0}, "plan.batch_size"),
        ({"spacing_mm": (1.0, 1.0)}, "plan.spacing_mm"),
        ({"spacing_mm": (1.0, 1.0, -1.0)}, "plan.spacing_mm"),
        ({"spacing_mm": (1.0, 1.0, float("nan"))}, "plan.spacing_mm"),
        ({"orientation": "XYZ"}, "plan.orientation"),
        ({"strides": ((1, 1), (2, 2))}, "plan.strides"),
        ({"kernel_sizes": ((3, 3, 0),)}, "plan.kernel_sizes"),
    ],
)
def test_numbers_that_cannot_be_are_refused(entries, where):
    with pytest.raises(ConfigError) as caught:
        Plan(**entries)

    assert caught.value.where == where
    assert caught.value.what.startswith("is ")
    assert caught.value.remedy


def test_a_plan_is_plain_yaml_that_reads_back():
    plan = make_plan(fingerprint(((90, 80, 70), (1, 1, 1))), modality="CT", given=Plan())

    again = Plan.from_dict(yaml.safe_load(plan.to_yaml()))

    assert again.to_dict() == plan.to_dict()


def test_unknown_entries_are_refused():
    with pytest.raises(ConfigError) as caught:
        Plan.from_dict({"spatial_dims": 3, "pach_size": [1]}, where="plan.yaml")

    assert caught.value.where == "plan.yaml"
    assert "['pach_size']" in caught.value.what
