from collections import Counter
from dataclasses import replace

import numpy as np
import phantoms
import pytest
import torch
from learning_cases import block_cases, case_of, small_plan

from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.data.cache import CaseCache
from medseg.data.dataset import BatchDataset
from medseg.data.loader import LoaderSpec, training_loader
from medseg.transforms.augment import NO_AUGMENT, Augment

SCALE = {"kind": "scale_255"}
FREQUENT = Augment(
    rotation_probability=0.5,
    scaling_probability=0.5,
    elastic_probability=0.5,
    noise_probability=0.5,
    blur_probability=0.5,
    brightness_probability=0.5,
    contrast_probability=0.5,
    low_resolution_probability=0.5,
    gamma_probability=0.5,
)


def batches(tmp_path, cases, **changes):
    plan = small_plan(**changes.pop("plan", {}))
    options = {
        "augment": Augment(),
        "foreground_fraction": 0.5,
        "mirror_axes": (0, 1, 2)[: plan.spatial_dims],
        "outside_label": 0,
        "seed": 3,
        "rank": 0,
        "num_steps": 20,
        **changes,
    }
    return BatchDataset(cases, CaseCache(tmp_path, plan=plan, num_classes=3), **options)


def assert_equal(first, second) -> None:
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["target"], second["target"])
    assert first["keys"] == second["keys"]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_has_the_plans_shape(tmp_path, dims):
    plan = {"spatial_dims": dims, "patch_size": (16, 16, 8)[:dims]}
    if dims == 2:
        plan |= {"strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3), (3, 3))}

    batch = batches(tmp_path, block_cases(3), plan=plan)[4]

    assert batch["image"].shape == (2, 1, *(16, 16, 8)[:dims])
    assert batch["target"].shape == (2, *(16, 16, 8)[:dims])
    assert batch["image"].dtype == torch.float32
    assert batch["target"].dtype == torch.int64
    assert len(batch["keys"]) == 2


def test_batch_n_is_the_same_whatever_was_drawn_before(tmp_path):
    first, second = (batches(tmp_path, block_cases(3)) for _ in range(2))

    for step in range(7):
        first[step]

    assert_equal(first[7], second[7])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_give_the_same_batches_in_the_same_order(tmp_path, num_workers):
    dataset = batches(tmp_path, block_cases(3))
    spec = LoaderSpec(num_workers=num_workers, steps_per_epoch=5)
    loader = training_loader(dataset, spec, device="cpu")
    loader.sampler.set_epoch(2)

    drawn = list(loader)

    assert len(drawn) == 5
    for step, batch in zip(range(10, 15), drawn, strict=True):
        assert_equal(batch, dataset[step])


@pytest.mark.parametrize("change", [{"seed": 4}, {"rank": 1}])
def test_another_seed_or_rank_draws_other_patches(tmp_path, change):
    cases = block_cases(3)

    first, second = batches(tmp_path, cases)[0], batches(tmp_path, cases, **change)[0]

    assert not torch.equal(first["image"], second["image"])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_finished_on_the_device_equals_one_finished_where_it_was_cut(tmp_path, dims):
    plan = {"spatial_dims": dims, "patch_size": (16, 12, 8)[:dims], "batch_size": 5}
    if dims == 2:
        plan |= {"strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3), (3, 3))}
    options = {"augment": FREQUENT, "plan": plan, "outside_label": 9}
    here = batches(tmp_path, block_cases(3), **options)
    there = batches(tmp_path, block_cases(3), **options, finishes=False)

    for step in range(6):
        raw = there[step]
        image, target = raw["raw"].to(torch.device("cpu")).finish()

        assert_equal({"image": image, "target": target, "keys": raw["keys"]}, here[step])


def test_unfinished_batches_come_whole_out_of_worker_processes(tmp_path):
    dataset = batches(tmp_path, block_cases(3), augment=FREQUENT, finishes=False)
    loader = training_loader(dataset, LoaderSpec(num_workers=1, steps_per_epoch=3), device="cpu")

    for step, batch in enumerate(loader):
        found, wanted = batch["raw"].finish(), dataset[step]["raw"].finish()
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dims", [2, 3])
def test_a_gpu_gives_the_batch_that_the_cpu_gives(tmp_path, dims):
    plan = {"spatial_dims": dims, "patch_size": (64, 48, 32)[:dims], "batch_size": 5}
    if dims == 2:
        plan |= {"strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3), (3, 3))}
    # Noise has other numbers on a GPU.
    augment = replace(FREQUENT, noise_probability=0.0)
    cases = block_cases(3, shape=(70, 60, 40))
    dataset = batches(tmp_path, cases, augment=augment, plan=plan, finishes=False)

    for step in range(6):
        raw = dataset[step]["raw"]
        image, target = raw.finish()
        found, labels = raw.pin_memory().to(torch.device("cuda")).finish()

        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), image, atol=1e-3, rtol=1e-3)
        # Positions halfway between two voxels may round either way.
        assert (labels.cpu() == target).float().mean() > 0.999


def test_every_case_is_drawn_once_before_any_is_drawn_again(tmp_path):
    dataset = batches(tmp_path, block_cases(4), augment=NO_AUGMENT)

    keys = [key for step in range(4) for key in dataset[step]["keys"]]

    assert Counter(keys[:4]) == Counter(keys[4:]) == Counter(case.key for case in dataset.cases)
    assert keys[:4] != keys[4:] or keys[:4] != sorted(keys[:4])


@pytest.mark.parametrize("elastic", [0.0, 1.0])
@pytest.mark.parametrize("dims", [2, 3])
def test_image_and_labels_stay_aligned_when_turned_scaled_and_mirrored(tmp_path, dims, elastic):
    # The image is the label map itself, smooth enough that interpolation moves no border far.
    reference = phantoms.labelled_boxes(shape=(40, 40, 24), spacing_mm=(1.5, 1.7, 2.9))
    image = Volume(255.0 * reference.array[None].astype(np.float32), reference.geometry)
    plan = {
        "spatial_dims": dims,
        "spacing_mm": (1.5, 1.7, 2.9),
        "patch_size": (24, 20, 12)[:dims],
        "normalisation": (SCALE,),
    }
    if dims == 2:
        plan |= {"strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3), (3, 3))}
    augment = replace(
        NO_AUGMENT,
        rotation_probability=1.0,
        scaling_probability=1.0,
        mirror_probability=0.5,
        elastic_probability=elastic,
        elastic_mm=1.0,
    )
    dataset = batches(
        tmp_path, [case_of(image, reference)], plan=plan, augment=augment, foreground_fraction=1.0
    )

    for step in range(8):
        batch = dataset[step]
        found, target = batch["image"][:, 0], batch["target"]
        # A nearest label and a linear image of the same thing differ by half a step at most where
        # both classes differ by one, and by one where background touches class 2.
        assert float((found - target).abs().max()) <= 1.0 + 1e-4
        off = ((found - target).abs() > 0.5 + 1e-4).float().mean()
        assert float(off) < 0.02
        assert float((target > 0).float().mean()) > 0.01


def test_mirrored_patches_are_the_straight_ones_turned_over(tmp_path):
    cases = block_cases(1)
    straight = batches(tmp_path, cases, augment=NO_AUGMENT)
    mirrored = batches(tmp_path, cases, augment=replace(NO_AUGMENT, mirror_probability=1.0))

    first, second = straight[0], mirrored[0]

    assert torch.equal(second["image"], first["image"].flip(2, 3, 4))
    assert torch.equal(second["target"], first["target"].flip(1, 2, 3))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_patch_of_one_voxel_along_a_mirrored_axis_is_cut(tmp_path, axis):
    size = [8, 8, 8]
    size[axis] = 1
    batches = BatchDataset(
        block_cases(1),
        CaseCache(tmp_path, plan=small_plan(patch_size=tuple(size)), num_classes=3),
        augment=replace(NO_AUGMENT, mirror_probability=1.0),
        foreground_fraction=0.0,
        mirror_axes=(axis,),
        outside_label=0,
        seed=0,
        rank=0,
        num_steps=1,
    )

    assert batches[0]["target"].shape[1:] == tuple(size)


def test_voxels_beyond_the_image_are_zero_and_ignored(tmp_path):
    reference = LabelMap(np.ones((4, 4, 4), np.uint8), phantoms.grid(shape=(4, 4, 4)))
    image = Volume(np.full((1, 4, 4, 4), 255.0, np.float32), reference.geometry)
    plan = {"patch_size": (8, 8, 8), "normalisation": (SCALE,), "spacing_mm": (2.0, 2.5, 3.5)}

    for augment in (NO_AUGMENT, replace(NO_AUGMENT, rotation_probability=1.0)):
        dataset = batches(
            tmp_path, [case_of(image, reference)], plan=plan, augment=augment, outside_label=255
        )
        batch = dataset[0]

        assert set(batch["target"].unique().tolist()) == {1, 255}
        assert (batch["image"][:, 0][batch["target"] == 255] < 0.6).all()
        assert float(batch["image"][0, 0, 0, 0, 0]) == 0.0


def test_foreground_patches_hold_foreground(tmp_path):
    reference = np.zeros((40, 40, 40), np.uint8)
    reference[37, 2, 20] = 2
    geometry = phantoms.grid(shape=(40, 40, 40), spacing_mm=(1.0, 1.25, 2.0))
    image = Volume(np.zeros((1, 40, 40, 40), np.float32), geometry)
    case = case_of(image, LabelMap(reference, geometry))
    plan = {"patch_size": (8, 8, 8), "normalisation": (SCALE,)}

    always = batches(tmp_path, [case], plan=plan, augment=NO_AUGMENT, foreground_fraction=1.0)
    never = batches(tmp_path, [case], plan=plan, augment=NO_AUGMENT, foreground_fraction=0.0)

    assert all((always[n]["target"] == 2).any((1, 2, 3)).all() for n in range(10))
    assert not all((never[n]["target"] == 2).any() for n in range(10))


@pytest.mark.parametrize(
    ("batch_size", "fraction", "wanted"), [(2, 0.33, 1), (4, 0.33, 1), (8, 0.33, 3), (3, 0.5, 1)]
)
def test_every_batch_has_its_share_of_foreground_patches(tmp_path, batch_size, fraction, wanted):
    # One voxel among so many that no other patch holds it by chance; nnU-Net's rounding.
    reference = np.zeros((60, 60, 60), np.uint8)
    reference[57, 2, 20] = 1
    geometry = phantoms.grid(shape=(60, 60, 60), spacing_mm=(1.0, 1.25, 2.0))
    image = Volume(np.zeros((1, 60, 60, 60), np.float32), geometry)
    case = case_of(image, LabelMap(reference, geometry))
    plan = {"patch_size": (4, 4, 4), "normalisation": (SCALE,), "batch_size": batch_size}

    dataset = batches(tmp_path, [case], plan=plan, augment=NO_AUGMENT, foreground_fraction=fraction)

    for n in range(10):
        assert int((dataset[n]["target"] == 1).any(-1).any(-1).any(-1).sum()) == wanted


def test_single_patches_are_drawn_from_the_foreground_by_chance(tmp_path):
    reference = np.zeros((60, 60, 60), np.uint8)
    reference[57, 2, 20] = 1
    geometry = phantoms.grid(shape=(60, 60, 60), spacing_mm=(1.0, 1.25, 2.0))
    case = case_of(
        Volume(np.zeros((1, 60, 60, 60), np.float32), geometry), LabelMap(reference, geometry)
    )
    plan = {"patch_size": (4, 4, 4), "normalisation": (SCALE,), "batch_size": 1}

    dataset = batches(tmp_path, [case], plan=plan, augment=NO_AUGMENT, foreground_fraction=0.5)

    found = sum(bool((dataset[n]["target"] == 1).any()) for n in range(60))
    assert 18 < found < 42  # 30, and three standard deviations are 12


def test_2d_patches_of_a_rare_class_come_from_its_slice(tmp_path):
    reference = np.zeros((20, 20, 30), np.uint8)
    reference[5, 15, 27] = 1
    geometry = phantoms.grid(shape=(20, 20, 30), spacing_mm=(1.0, 1.25, 2.0))
    image = Volume(np.zeros((1, 20, 20, 30), np.float32), geometry)
    plan = {
        "spatial_dims": 2,
        "patch_size": (8, 8),
        "normalisation": (SCALE,),
        "strides": ((1, 1), (2, 2)),
        "kernel_sizes": ((3, 3), (3, 3)),
    }
    dataset = batches(
        tmp_path,
        [case_of(image, LabelMap(reference, geometry))],
        plan=plan,
        augment=NO_AUGMENT,
        foreground_fraction=1.0,
    )

    assert all((dataset[n]["target"] == 1).any((1, 2)).all() for n in range(5))


@pytest.mark.parametrize("dims", [2, 3])
def test_patches_hold_annotated_voxels_where_most_are_to_be_ignored(tmp_path, dims):
    volume = block_cases(1, shape=(40, 36, 30))[0].read_image()
    array = np.full(volume.geometry.shape, 255, np.int16)
    array[20:28, 18:26, 9:14] = 0  # a little background is all that anybody annotated
    labels = LabelSet.from_names(["background", "box", "corner"], ignore_id=255)
    case = case_of(volume, LabelMap(array, volume.geometry, labels))
    plan = {"spatial_dims": dims, "patch_size": (16, 16, 8)[:dims]}
    if dims == 2:
        plan |= {"strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3), (3, 3))}

    dataset = batches(tmp_path, [case], plan=plan, outside_label=255, augment=NO_AUGMENT)

    share = np.mean([(dataset[n]["target"][m] != 255).any() for n in range(20) for m in range(2)])
    # Left to chance, one slice in six holds any, and far from all positions of a patch do.
    assert share == 1.0


def ramp_case(*, foreground: slice | None):
    """Voxels hold their position along the first axis."""
    geometry = phantoms.grid(shape=(64, 16, 8), spacing_mm=(1.0, 1.25, 2.0), orientation="RAS")
    reference = np.zeros((64, 16, 8), np.uint8)
    if foreground is not None:
        reference[foreground] = 1
    image = np.broadcast_to(np.arange(64, dtype=np.float32)[:, None, None], reference.shape)
    labels = LabelSet.from_names(["background", "box", "corner"])
    return case_of(Volume(image[None].copy(), geometry), LabelMap(reference, geometry, labels))


def first_positions(tmp_path, case, **options) -> list[int]:
    dataset = batches(
        tmp_path, [case], augment=NO_AUGMENT, plan={"normalisation": (SCALE,)}, **options
    )
    drawn = [dataset[step]["image"][:, 0, 0, 0, 0] for step in range(150)]
    return [round(255 * float(value)) for batch in drawn for value in batch]


def test_a_fine_networks_patches_keep_to_the_references_region_and_some_do_not(tmp_path):
    case = ramp_case(foreground=slice(30, 34))

    starts = first_positions(tmp_path, case, foreground_fraction=0.0, region_margin=(6.0, 0, 0))

    # Patches of 16 voxels in regions of 16 (margin 6 and less) to 28 voxels (margin 12).
    near = [18 <= start <= 30 for start in starts]
    # A quarter lies anywhere, of which 13 of 49 positions are near: 0.82, deviation 0.02.
    assert 0.74 < np.mean(near) < 0.89
    assert len({start for start in starts if 18 <= start <= 30}) > 8
    assert min(starts) < 8
    assert max(starts) > 40


def test_regions_leave_patches_of_a_class_as_they_are(tmp_path):
    case = ramp_case(foreground=slice(30, 34))
    options = {"foreground_fraction": 1.0}

    with_regions = first_positions(tmp_path, case, **options, region_margin=(6.0, 0, 0))

    assert all(14 < start < 34 for start in with_regions)


def test_a_case_without_foreground_has_patches_anywhere(tmp_path):
    case = ramp_case(foreground=None)

    starts = first_positions(tmp_path, case, foreground_fraction=0.5, region_margin=(2.0, 0, 0))

    assert len(set(starts)) > 40


def test_patches_are_centred_on_the_chosen_classes_alone(tmp_path):
    case = ramp_case(foreground=slice(30, 34))
    reference = case.read_reference()
    reference.array[:4] = 2
    options = {"foreground_fraction": 1.0}

    on_first = first_positions(tmp_path, case, **options, centre_classes=(1,))
    on_second = first_positions(tmp_path, case, **options, centre_classes=(2,))
    on_both = first_positions(tmp_path, case, **options)

    assert all(14 < start < 34 for start in on_first)
    assert all(start == 0 for start in on_second)
    assert {start == 0 for start in on_both} == {False, True}
