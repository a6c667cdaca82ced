from __future__ import annotations

import json
import logging
import shutil

import nibabel
import numpy as np
import pytest

from medseg.cli.commands import main
from medseg.cli.doctor import installation, resources
from medseg.cli.findings import Severity
from medseg.config.compose import compose


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_nifti(path, array, spacing_mm=(1.0, 2.0, 3.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.diag([*spacing_mm, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


@pytest.fixture
def decathlon(tmp_path):
    """Three cases; `b` holds a label value that no class has."""
    folder = tmp_path / "data"
    image = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for offset, key in enumerate("abc"):
        label = np.zeros((3, 4, 5), np.uint8)
        label[1, 2, 3] = 9 if key == "b" else 1
        write_nifti(folder / "imagesTr" / f"{key}.nii.gz", image + offset)
        write_nifti(folder / "labelsTr" / f"{key}.nii.gz", label)
    content = {
        "name": "made",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "spot"},
        "numTraining": 3,
        "training": [
            {"image": f"./imagesTr/{key}.nii.gz", "label": f"./labelsTr/{key}.nii.gz"}
            for key in "abc"
        ],
        "test": [],
    }

    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_the_installation_is_in_order_here():
    findings = installation()

    assert {f.subject for f in findings} >= {"medseg", "Python", "torch", "pydicom"}
    assert [f for f in findings if f.severity is Severity.PROBLEM] == []


def test_a_missing_package_and_an_old_one_are_problems(monkeypatch):
    import importlib.metadata as metadata

    real = metadata.version

    def version(name):
        if name == "nibabel":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "monai" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: ["monai>=1.6.0", "x; extra == 'dev'"])

    problems = {f.subject: f.text for f in installation() if f.severity is Severity.PROBLEM}

    assert problems == {
        "nibabel": "is not installed; pip install nibabel",
        "monai": "is 1.0, medseg needs >=1.6.0",
    }


def test_folders_are_looked_at(tmp_path):
    (tmp_path / "file").write_text("")
    config = compose("doctor", ["paths.runs=file/below", "paths.output=new/folder"]).config

    found = {f.subject: f for f in resources(config)}

    assert found["paths.runs"].severity is Severity.PROBLEM
    assert "set paths.runs=<folder>" in found["paths.runs"].text
    assert found["paths.output"].severity is not Severity.PROBLEM
    assert not (tmp_path / "new").exists()


def test_a_sound_machine_ends_with_0(capsys):
    assert main(["doctor"]) == 0

    out = capsys.readouterr().out
    assert "Everything that was looked at is in order." in out
    for title in ("Installation", "Devices", "Memory and folders", "Configuration"):
        assert title in out


def test_nothing_is_written_to_the_working_folder(tmp_path):
    main(["doctor"])

    assert list(tmp_path.iterdir()) == []


def test_every_bad_case_of_a_folder_is_named_and_ends_with_1(decathlon, capsys):
    assert main(["doctor", f"source.folder={decathlon}"]) == 1

    out = " ".join(capsys.readouterr().out.split())
    assert "3, of 3 patients; 3 with a reference" in out
    assert "background, spot" in out
    assert "1 problem: b: " in out
    assert "labelsTr/b.nii.gz: holds 9, but the labels are 0 background, 1 spot" in out


def test_names_of_files_cannot_steer_the_terminal(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a\n\x1b[2Jb.nii.gz").write_bytes(b"no image")

    main(["doctor", f"source.folder={folder}"])

    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\\x1b[2Jb" in shown.out


def test_a_sound_folder_ends_with_0(decathlon):
    for kind in ("imagesTr", "labelsTr"):
        shutil.copy(decathlon / kind / "a.nii.gz", decathlon / kind / "b.nii.gz")

    assert main(["doctor", f"source.folder={decathlon}"]) == 0


def test_the_log_goes_on_after_a_folder_was_looked_through(decathlon, caplog):
    main(["doctor", f"source.folder={decathlon}"])

    logging.getLogger("medseg.sources").warning("still heard")

    assert "still heard" in caplog.text


def test_images_without_any_label_are_no_problem(decathlon, tmp_path):
    shutil.copytree(decathlon / "imagesTr", tmp_path / "new")

    assert main(["doctor", f"source.folder={tmp_path / 'new'}"]) == 0


def test_a_folder_is_held_against_the_experiments_labels(decathlon, capsys):
    assert main(["doctor", f"source.folder={decathlon}", "config=hippocampus"]) == 1

    assert "hippocampus_anterior" in capsys.readouterr().out


def test_a_missing_folder_and_a_missing_bundle_are_told(capsys):
    assert main(["doctor", "source.folder=nowhere", "bundle=nothing"]) == 1

    out = " ".join(capsys.readouterr().out.split())
    assert "nowhere: there is no such file or folder" in out
    assert "nothing: is no model bundle" in out


def test_experiments_are_checked_by_name(capsys):
    assert main(["doctor", "config=[liver,hippocampus]"]) == 0
    assert main(["doctor", "config=livr"]) == 1

    assert "there is no experiment 'livr'; did you mean 'liver'?" in capsys.readouterr().out


def test_an_option_of_ones_own_that_is_never_read_is_told(tmp_path, capsys):
    hidden = tmp_path / "conf" / "model" / "unet.yaml"
    hidden.parent.mkdir(parents=True)
    hidden.write_text("# mine\n_target_: medseg.models.unet.UNet\n")

    assert main(["doctor"]) == 1

    assert "is never read, because medseg has an option of that name" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.real_data
def test_real_dicom_series_are_listed_with_their_grids(real_data, capsys):
    folder = real_data("brain_mr_dicom")

    assert main(["doctor", f"source.folder={folder}"]) == 0

    out = " ".join(capsys.readouterr().out.split())
    assert "Study1/13_HCropVolume MR: 35x51x32 voxels of 1 x 1 x 1 mm, 32 files" in out


@pytest.mark.real_data
def test_a_real_folder_with_an_orphaned_label_is_named(real_data, capsys):
    folder = real_data("Task04_Hippocampus_broken")

    assert main(["doctor", f"source.folder={folder}"]) == 1

    assert "labels/hippocampus_010.nii.gz: a label without an image" in capsys.readouterr().out


def test_a_network_is_measured_at_the_numbers_given(capsys):
    words = ["model=segnet", "plan.patch_size=[16,16,8]", "plan.batch_size=2"]

    code = main(["doctor", *words, "plan.base_channels=2", "in_channels=4", "out_channels=5"])

    printed = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert "SegNet, 3D" in printed
    assert "patch 16x16x8, batch 2, 4 image channels, 5 classes" in printed
    for subject in ("parameters", "FLOPs", "receptive field", "memory", "time", "most FLOPs"):
        assert subject in printed


def test_a_network_is_measured_at_the_plan_of_a_run(tmp_path, capsys):
    content = {"spatial_dims": 2, "patch_size": [16, 24], "batch_size": 3, "base_channels": 2,
               "strides": [[1, 1], [2, 2]], "kernel_sizes": [[3, 3], [3, 3]],
               "spacing_mm": [1, 1, 1], "normalisation": [{"kind": "zscore"}]}  # fmt: skip
    path = tmp_path / "plan.yaml"
    path.write_text(json.dumps(content))

    assert main(["doctor", "model=unet", "model.spatial_dims=2", f"plan_path={path}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "patch 16x24, batch 3, 1 image channels" in printed

    assert main(["doctor", "model=unet", f"plan_path={path}"]) == 1
    assert "set model.spatial_dims=2" in " ".join(capsys.readouterr().out.split())


def test_a_plan_that_is_none_is_named(tmp_path, capsys):
    path = tmp_path / "plan.yaml"

    assert main(["doctor", "model=unet", f"plan_path={path}"]) == 1
    assert "cannot be read" in " ".join(capsys.readouterr().out.split())


def test_all_networks_are_measured_in_2d_and_3d(monkeypatch, capsys):
    monkeypatch.setattr("medseg.cli.model_report.groups", lambda: {"model": ["unet", "swin_unetr"]})

    words = ["plan.base_channels=2", "plan.batch_size=1", "plan_path=null"]
    monkeypatch.setattr("medseg.cli.model_report.LARGE_IMAGE", 16)
    code = main(["doctor", "models=true", *words])

    printed = capsys.readouterr().out
    assert code == 0
    for row in ("unet 2D", "unet 3D", "swin_unetr 2D", "swin_unetr 3D"):
        assert row in printed
    assert "32x32x32" in printed  # swin_unetr takes no smaller patch
