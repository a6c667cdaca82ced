import hashlib
import pickle
import shutil

import numpy as np
import pytest
import torch
import yaml
from learning_cases import LABELS, small_plan
from safetensors.numpy import load_file

from medseg.bundle import ModelBundle
from medseg.core.errors import BundleError
from medseg.models.unet import UNet

OPTIONS = {"in_channels": 1, "base_channels": 4, "strides": [1, 2]}


def untrained(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(1, 3, base_channels=4, strides=(1, 2))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A bundle of two folds, not to be changed."""
    return ModelBundle.write(
        tmp_path_factory.mktemp("models") / "liver",
        weights={f"fold_{n}": untrained(n).state_dict() for n in range(2)},
        plan=small_plan(),
        labels=LABELS,
        config={"name": "liver", "seed": 0},
        card={
            "name": "liver",
            "notice": "trained on synthetic phantoms",
            "mirror_axes": "RA",
            "network": {"class": "medseg.models.unet.UNet", "options": OPTIONS},
        },
    )


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(written.folder, tmp_path / "copy")


def change_card(folder, **changes) -> None:
    path = folder / "card.yaml"
    card = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**card, **changes}))


def change_file(folder, name: str, content: bytes) -> None:
    """Changes a file and its sha256 on the card, as someone who means harm would."""
    card = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    change_card(folder, sha256={**card["sha256"], name: hashlib.sha256(content).hexdigest()})


def refusal(folder) -> BundleError:
    with pytest.raises(BundleError) as caught:
        ModelBundle.load(folder).build_networks()
    assert caught.value.where.startswith(str(folder))
    return caught.value


def test_what_was_written_is_loaded(written):
    loaded = ModelBundle.load(written.folder)

    assert loaded.name == "liver"
    assert loaded.notice == "trained on synthetic phantoms"
    assert loaded.mirror_axes == "RA"
    assert loaded.num_channels == 1
    assert loaded.version
    assert loaded.labels == LABELS
    assert loaded.plan.to_dict() == small_plan().to_dict()
    assert loaded.config == {"name": "liver", "seed": 0}
    assert loaded.sha256 == written.sha256
    card = (written.folder / "card.yaml").read_bytes()
    assert loaded.sha256 == hashlib.sha256(card).hexdigest()


def test_networks_have_the_weights_of_their_folds(written):
    networks = ModelBundle.load(written.folder).build_networks()

    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    for seed, network in enumerate(networks):
        torch.testing.assert_close(network.eval()(image), untrained(seed).eval()(image))


def test_weights_are_plain_safetensors(written):
    arrays = load_file(written.folder / "weights" / "fold_0.safetensors")

    for key, value in untrained().state_dict().items():
        assert np.array_equal(arrays[key], value.numpy())


def test_a_bundle_can_be_moved(written, tmp_path):
    moved = shutil.copytree(written.folder, tmp_path / "elsewhere" / "name with spaces")

    assert ModelBundle.load(moved).sha256 == written.sha256


@pytest.mark.parametrize(
    "name", ["plan.yaml", "labels.yaml", "config.yaml", "weights/fold_1.safetensors"]
)
def test_an_altered_byte_is_noticed(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    error = refusal(folder)

    assert error.where == str(folder / name)
    assert "sha256" in error.what
    assert error.remedy == "copy the bundle again"


@pytest.mark.parametrize(
    "name", ["plan.yaml", "labels.yaml", "config.yaml", "weights/fold_1.safetensors"]
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()

    error = refusal(folder)

    assert error.where == str(folder / name)
    assert "cannot be read" in error.what


def test_a_folder_without_a_card_is_no_bundle(tmp_path):
    error = refusal(tmp_path)

    assert error.what == "is no model bundle: it holds no card.yaml"
    assert error.remedy == "give the folder that training printed"


def test_a_bundle_that_is_not_there_is_told_from_a_folder_that_is_none(tmp_path):
    assert refusal(tmp_path / "nothing").what == "is no model bundle: there is no such folder"


def test_the_folder_above_a_bundle_gets_a_suggestion(written):
    error = refusal(written.folder.parent)

    assert error.remedy == f"did you mean bundle={written.folder}?"


@pytest.mark.parametrize("version", [3, "1", None])
def test_another_format_is_refused(folder, version):
    change_card(folder, format_version=version)

    error = refusal(folder)

    assert f"has format version {version!r}, this medseg reads 1 and 2" in error.what
    assert "the medseg version that wrote it" in error.remedy


@pytest.mark.parametrize("name", ["../outside.yaml", "/etc/hostname", "weights/../../outside"])
def test_a_path_out_of_the_folder_is_refused(folder, name):
    (folder.parent / "outside.yaml").write_text("a: 1")
    card = yaml.safe_load((folder / "card.yaml").read_text())
    change_card(folder, sha256={**card["sha256"], name: "0" * 64})

    assert f"names the file '{name}' outside the bundle" in refusal(folder).what


@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_link_out_of_the_folder_is_refused(folder, whole_folder):
    name = "weights" if whole_folder else "weights/fold_0.safetensors"
    target = shutil.move(folder / name, folder.parent / "outside")
    (folder / name).symlink_to(target)

    assert "outside the bundle" in refusal(folder).what


@pytest.mark.parametrize(
    "network",
    [
        "os.system",
        "builtins.eval",
        "torch.load",
        "torch.nn.Linear",
        "medseg.models.unet.nn.Linear",
        "medseg.models.build.build_model",
        "medseg.config.build.importlib.import_module",
        "medseg.models.unet.ResUNet",
        "",
    ],
)
def test_a_class_that_is_no_network_of_medseg_is_refused(folder, network):
    change_card(folder, network={"class": network, "options": OPTIONS})

    refusal(folder)


@pytest.mark.parametrize(
    "options",
    [
        {**OPTIONS, "_target_": "os.system"},
        {**OPTIONS, "norm": {"_target_": "os.system", "command": "true"}},
        {**OPTIONS, "chanels": 3},
        {**OPTIONS, "strides": "many"},
        {"base_channels": 4},
        {"in_channels": "one"},
        [],
    ],
)
def test_options_that_do_not_fit_are_refused(folder, options):
    change_card(folder, network={"class": "medseg.models.unet.UNet", "options": options})

    refusal(folder)


def test_weights_of_another_network_are_told_in_one_line(folder):
    change_card(
        folder,
        network={"class": "medseg.models.unet.UNet", "options": {**OPTIONS, "base_channels": 6}},
    )

    assert "\n" not in str(refusal(folder))


class Harm:
    """Unpickling it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["weights/fold_0.safetensors", "weights/fold_7.pt"])
def test_a_pickled_file_is_refused_and_not_run(folder, name):
    harm = folder.parent / "harm"
    change_file(folder, name, pickle.dumps(Harm(str(harm))))

    error = refusal(folder)

    assert error.where == str(folder / name)
    assert "does not fit the network" in error.what
    assert not harm.exists()


def test_a_torch_checkpoint_in_place_of_weights_is_refused(folder, tmp_path):
    torch.save(untrained().state_dict(), tmp_path / "weights.pt")
    change_file(folder, "weights/fold_0.safetensors", (tmp_path / "weights.pt").read_bytes())

    assert "does not fit the network" in refusal(folder).what


@pytest.mark.parametrize(
    "content",
    [
        b"!!python/object/apply:os.mkdir ['harm']",
        b"\xff\xfe\x00",
        b"- a list",
        b"[" * 5000,
        b"just text",
    ],
)
@pytest.mark.parametrize("name", ["plan.yaml", "labels.yaml", "config.yaml"])
def test_yaml_that_is_not_plain_is_refused(folder, name, content, monkeypatch):
    monkeypatch.chdir(folder.parent)
    change_file(folder, name, content)

    refusal(folder)

    assert not (folder.parent / "harm").exists()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("plan.yaml", "spatial_dims: 3\nnew_entry: 1", "new_entry"),
        ("plan.yaml", "patch_size: 7", "cannot be understood"),
        ("plan.yaml", "spacing_mm: [a, b, c]", "cannot be understood"),
        ("plan.yaml", "strides: [1, 2]", "cannot be understood"),
        ("plan.yaml", "spatial_dims: 3", "has no value for spacing_mm, patch_size"),
        ("plan.yaml", small_plan(patch_size=(16, 16, 7)).to_yaml(), "no multiple of the network's"),
        ("labels.yaml", "background: 0\nliver: 2", "without gaps"),
        ("labels.yaml", "background: zero\nliver: 2", "background"),
    ],
)
def test_a_plan_or_labels_that_cannot_be_are_refused(folder, name, content, what):
    change_file(folder, name, content.encode())

    assert what in str(refusal(folder))


def test_a_plan_for_another_number_of_channels_is_refused(folder):
    plan = small_plan(normalisation=({"kind": "zscore"},) * 2)
    change_file(folder, "plan.yaml", plan.to_yaml().encode())

    assert "number of channels" in refusal(folder).what


@pytest.mark.parametrize("kept", ["plan.yaml", "weights/fold_0.safetensors"])
def test_a_card_that_leaves_files_out_is_refused(folder, kept):
    card = yaml.safe_load((folder / "card.yaml").read_text())
    change_card(folder, sha256={kept: card["sha256"][kept]})

    assert "does not list the bundle's files" in refusal(folder).what


def test_a_huge_card_is_not_parsed(folder):
    (folder / "card.yaml").write_bytes(b"a: " + b"x" * (5 * 2**20))

    assert "is larger than" in refusal(folder).what


def test_a_bundle_cut_short_while_written_is_none(folder):
    (folder / "card.yaml").unlink()

    assert "holds no card.yaml" in refusal(folder).what


@pytest.fixture
def cascade(tmp_path):
    """A bundle with a coarse network, to spoil."""
    parts = {
        "weights": {"fold_0": untrained().state_dict()},
        "labels": LABELS,
        "config": {},
        "card": {"network": {"class": "medseg.models.unet.UNet", "options": OPTIONS}},
    }
    coarse = ModelBundle.write(tmp_path / "both" / "coarse", plan=small_plan(), **parts)
    fine = small_plan(cascade=True, coarse_spacing_mm=(4, 4, 4), coarse_margin_mm=8.0)
    return ModelBundle.write(tmp_path / "both", plan=fine, coarse=coarse, **parts).folder


def test_a_cascade_is_loaded_with_its_coarse_network(cascade):
    loaded = ModelBundle.load(cascade)

    assert loaded.card["format_version"] == 2
    assert loaded.weight_files == ["weights/fold_0.safetensors"]
    assert loaded.coarse.folder == cascade / "coarse"
    assert loaded.coarse.coarse is None
    assert ModelBundle.load(cascade / "coarse").sha256 == loaded.coarse.sha256


def test_a_single_network_keeps_the_format_of_earlier_versions(written):
    assert written.card["format_version"] == 1
    assert written.coarse is None


@pytest.mark.parametrize("name", ["card.yaml", "plan.yaml", "weights/fold_0.safetensors"])
def test_an_altered_byte_of_the_coarse_network_is_noticed(cascade, name):
    content = bytearray((cascade / "coarse" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (cascade / "coarse" / name).write_bytes(content)

    assert "sha256" in refusal(cascade).what


def test_a_cascade_without_its_coarse_network_is_refused(cascade):
    card = yaml.safe_load((cascade / "card.yaml").read_text())
    del card["sha256"]["coarse/card.yaml"]
    (cascade / "card.yaml").write_text(yaml.safe_dump(card))

    assert "does not list its coarse network" in refusal(cascade).what


def test_a_bundle_inside_the_coarse_network_is_refused(cascade):
    change_card(cascade / "coarse", format_version=2)
    content = (cascade / "coarse" / "card.yaml").read_bytes()
    change_file(cascade, "coarse/card.yaml", content)

    assert "is no single network" in refusal(cascade).what


def test_a_coarse_network_for_other_labels_is_refused(cascade):
    labels = yaml.safe_dump(LABELS.from_names(["background", "kidney"]).to_mapping())
    change_file(cascade / "coarse", "labels.yaml", labels.encode())
    change_file(cascade, "coarse/card.yaml", (cascade / "coarse" / "card.yaml").read_bytes())

    assert "made for different images" in refusal(cascade).what
