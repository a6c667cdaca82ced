import json
import re
import shutil

import nibabel
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from learning_cases import block, write_blocks
from service_cases import tiny_bundle

import medseg
from medseg.cli import predict as predict_command
from medseg.cli.commands import main
from medseg.config.compose import quoted
from medseg.core.errors import ConfigError, OutputError
from medseg.dicom.ct_series import write_ct_series
from medseg.inference import bundle_networks


@pytest.fixture
def images(tmp_path):
    write_blocks(tmp_path / "blocks", 2)
    return tmp_path / "blocks" / "images"


@pytest.fixture
def bundle(tmp_path):
    return tiny_bundle(tmp_path / "bundle")


def test_results_never_replace_the_images(images, bundle):
    before = {path.name: path.read_bytes() for path in images.iterdir()}

    with pytest.raises(OutputError) as caught:
        medseg.predict(bundle, images, output=images)

    assert caught.value.where == str(images)
    assert "holds 2 of the images to be predicted (case_000, case_001)" in caught.value.what
    assert "another folder" in caught.value.remedy
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before


def test_the_folder_of_a_single_image_is_no_place_for_its_result(images, bundle):
    with pytest.raises(OutputError, match=r"1 of the images to be predicted \(case_001\)"):
        medseg.predict(bundle, images / "case_001.nii.gz", output=images)


def test_results_below_the_images_are_not_predicted_in_turn(images, bundle):
    done = medseg.predict(bundle, images, output=images / "results")

    assert [outcome.error for outcome in done] == [None, None]
    assert nibabel.load(images / "results" / "case_000.nii.gz").shape == (16, 14, 12)
    with pytest.raises(OutputError, match="results of an earlier run"):
        medseg.predict(bundle, images, output=images / "results")


def test_no_output_format_is_an_error(images, bundle, tmp_path):
    with pytest.raises(ConfigError) as caught:
        medseg.predict(bundle, images, output=tmp_path / "results", overrides=["output=[]"])

    assert caught.value.where == "output"
    assert "output=[nifti]" in caught.value.remedy


@pytest.mark.parametrize("name", ["[red]", "[/b]", "quo'te", "with space", "com,ma", "hash#=é"])
def test_folders_may_have_any_name(images, bundle, tmp_path, capsys, name):
    output = tmp_path / name / "results"

    code = main(
        [
            "predict",
            f"bundle={bundle}",
            f"source.folder={images}",
            f"paths.output={quoted(output)}",
        ]
    )

    assert code == 0
    assert f"results in {output}" in capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == ["case_000.nii.gz", "case_001.nii.gz"]


@pytest.mark.parametrize(
    "value", ["C:\\new\\t", "a'b", "a\\'b", "end\\", "a\\\\", '"', "a b,[c]{d}=e", "肝", "'"]
)
def test_a_quoted_value_is_read_back_as_it_was(value):
    override = OverridesParser.create().parse_override(f"bundle={quoted(value)}")

    assert override.value() == value


def test_a_series_with_a_missing_slice_fails_and_the_others_are_predicted(bundle, tmp_path, capsys):
    studies, output = tmp_path / "studies", tmp_path / "results"
    for number, name in enumerate(("whole", "gap")):
        image, _ = block(number, modality="CT")
        write_ct_series(image, studies / name, case_key=name, seed=number)
    sorted((studies / "gap").rglob("*.dcm"))[4].unlink()

    code = main(
        ["predict", f"bundle={bundle}", f"source.folder={studies}", f"paths.output={output}"]
    )

    assert code == 3
    assert [path.name for path in output.iterdir()] == ["whole.nii.gz"]
    printed = capsys.readouterr().out
    assert "1 of 2 cases predicted" in printed
    assert "failed: " in printed
    assert "slice missing" in printed
    whole, gap = medseg.predict(bundle, studies, output=output)
    assert whole.error is None
    assert gap.error is not None
    assert gap.error.code == "E_SLICE_GAP"


def test_several_bundles_segment_together_and_tell_how_sure_they_are(images, bundle, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    output = tmp_path / "results"

    code = main(
        [
            "predict",
            f"bundle=[{bundle},{other}]",
            "inference.weights=[2,1]",
            f"source.folder={images}",
            f"paths.output={output}",
            "output=[nifti,uncertainty]",
        ]
    )

    assert code == 0
    names = ["_disagreement.nii.gz", "_entropy.nii.gz", "_quality.json", ".nii.gz"]
    wanted = {f"case_00{n}{name}" for n in range(2) for name in names}
    assert {path.name for path in output.iterdir()} == wanted
    facts = json.loads((output / "case_000_quality.json").read_text())
    assert facts["model"]["name"] == "untrained + untrained"
    assert set(facts["expected_dice"]) == {"liver", "tumour"}
    # Twice the same network has nothing to disagree about.
    assert nibabel.load(output / "case_000_disagreement.nii.gz").get_fdata().max() < 1e-3
    alone = medseg.predict(bundle, images, output=tmp_path / "alone")
    assert [outcome.error for outcome in alone] == [None, None]
    labels = [nibabel.load(f / "case_001.nii.gz").get_fdata() for f in (output, tmp_path / "alone")]
    assert (labels[0] == labels[1]).mean() > 0.999


def test_a_baseline_tells_no_uncertainty(images, tmp_path):
    with pytest.raises(ConfigError, match="only networks"):
        medseg.predict(
            None,
            images,
            output=tmp_path / "results",
            overrides=["baseline=otsu", "output=[nifti,uncertainty]"],
        )


def test_what_a_long_image_takes_is_told_before_it_begins(
    images, bundle, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(predict_command, "SECONDS_WORTH_TELLING", 0)
    monkeypatch.setattr(bundle_networks, "TRIAL_FROM", 1)

    medseg.predict(bundle, images, output=tmp_path / "results")

    assert re.search(r"about 0\.\d min, 1 windows, \d\.\d GiB of memory", capsys.readouterr().out)
