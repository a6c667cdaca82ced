import numpy as np
import pytest
import torch
from export_bundles import PLAN, scan, small_bundle
from learning_cases import LABELS, small_plan

from medseg.bundle import ModelBundle
from medseg.core.errors import BundleError, ConfigError, MedsegError
from medseg.export import write
from medseg.export.parity import noise_patches, patches_of, require_parity
from medseg.export.write import export_bundle
from medseg.inference import runtimes
from medseg.inference.engines import TorchEngine
from medseg.inference.predictor import NetworkPredictor
from medseg.inference.sliding_window import SlidingWindow

pytest.importorskip("onnxscript")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    folder = tmp_path_factory.mktemp("bundles")
    bundle = small_bundle(folder / "plain")
    export_bundle(bundle, ["onnx", "openvino"], folder / "exported", volumes=[scan()])
    return ModelBundle.load(folder / "exported")


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_an_exported_bundle_predicts_like_pytorch(exported, engine):
    wanted, given = (
        NetworkPredictor(
            exported,
            inference=SlidingWindow(engine=name),
            device="cpu",
            precision="32-true",
        )
        for name in ("torch", engine)
    )
    assert given.networks.engine.engine.name == engine
    assert given.networks.engine.engine.precision == "32-true"

    # Exported networks take the plan's patch, while PyTorch's windows stretch.
    wanted._stride = None
    in_torch = wanted.predict_volume(scan()).array

    assert len(np.unique(in_torch)) > 1
    assert (given.predict_volume(scan()).array != in_torch).mean() < 1e-3


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_engines_give_pytorchs_logits_for_any_number_of_patches(exported, engine):
    networks = [network.eval() for network in exported.build_networks()]
    in_torch = TorchEngine(networks, device="cpu", precision="32-true")
    other = runtimes.make_engine(exported, engine, in_torch, precision="32-true")

    for count in (1, 2, 5):
        patches = torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(count))
        torch.testing.assert_close(other(patches), in_torch(patches), atol=1e-4, rtol=1e-4)


def test_what_belongs_to_the_model_travels_with_it(exported):
    assert tuple(exported.plan.patch_size) == (16, 16)
    assert exported.labels == LABELS
    assert exported.postprocess == {"threshold": {LABELS.names[1]: 0.4}}
    assert len(exported.weight_files) == 2
    assert exported.exports("onnx") == ["onnx/fold_0.onnx", "onnx/fold_1.onnx"]
    assert exported.card["exports"]["openvino"]["compared_on"] == "patches of images"


def test_an_altered_export_is_refused(exported, tmp_path):
    copy = exported.copy_with(tmp_path / "copy", {}, exports={})
    path = copy.folder / "onnx/fold_0.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\\x00")

    with pytest.raises(BundleError, match="sha256"):
        ModelBundle.load(copy.folder)


def test_auto_measures_and_says_what_it_took(exported, caplog):
    networks = [network.eval() for network in exported.build_networks()]
    in_torch = TorchEngine(networks, device="cpu", precision="32-true")

    with caplog.at_level("INFO"):
        engine = runtimes.make_engine(exported, "auto", in_torch, precision="32-true")

    assert f"engine {engine.name}: a patch takes torch" in caplog.text
    assert "onnx" in caplog.text
    assert "openvino" in caplog.text


def test_an_engine_that_the_bundle_does_not_carry_is_refused_with_the_command(tmp_path):
    bundle = small_bundle(tmp_path / "plain")

    with pytest.raises(ConfigError) as caught:
        NetworkPredictor(bundle, inference=SlidingWindow(engine="onnx"), device="cpu")

    assert caught.value.where == "inference.engine"
    assert "medseg export bundle=" in caught.value.remedy


def test_a_network_that_deviates_is_not_written(tmp_path, monkeypatch):
    bundle = small_bundle(tmp_path / "plain")

    class Wrong:
        precision = "32-true"

        def __call__(self, patches):
            return {"logits": np.zeros((len(patches), len(LABELS), *patches.shape[2:]), np.float32)}

    monkeypatch.setattr(write, "exported_files", lambda *_, **__: {".onnx": b"anything"})
    monkeypatch.setattr(write, "network_of_files", lambda *_: Wrong())

    with pytest.raises(MedsegError, match="deviates from PyTorch") as caught:
        export_bundle(bundle, ["onnx"], tmp_path / "exported")

    assert caught.value.code == "E_EXPORT"
    assert not (tmp_path / "exported").exists()


def test_not_a_number_is_a_deviation():
    class Engine:
        name = "onnx"

        def __init__(self, value):
            self.value = value

        def __call__(self, patches):
            return torch.full((1, len(LABELS), 4, 4), self.value)

    with pytest.raises(MedsegError, match="deviates"):
        require_parity(Engine(torch.nan), Engine(1.0), [torch.zeros(1, 1, 4, 4)], LABELS)


def test_unknown_formats_are_refused(tmp_path):
    bundle = small_bundle(tmp_path / "plain")

    with pytest.raises(ConfigError, match="caffe"):
        export_bundle(bundle, ["caffe"], tmp_path / "exported")


@pytest.mark.parametrize("patch_size", [(16, 16), (64, 64), (16, 16, 16)])
def test_patches_of_images_have_the_plans_size(patch_size):
    plan = small_plan(**{**(PLAN if len(patch_size) == 2 else {}), "patch_size": patch_size})

    patches = [*patches_of([scan()], plan), *noise_patches(plan, in_channels=1)]

    assert len(patches) == 6
    assert {tuple(patch.shape) for patch in patches} == {(1, 1, *patch_size)}
    assert all(float(patch.std()) > 0 for patch in patches)


@pytest.mark.slow
def test_a_program_of_torch_export_is_written_and_compared(tmp_path):
    bundle = small_bundle(tmp_path / "plain")

    parity = export_bundle(bundle, ["torch_export"], tmp_path / "exported")

    assert parity["torch_export"].changed == 0
    assert (tmp_path / "exported/torch_export/fold_0.pt2").is_file()
