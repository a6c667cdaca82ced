"""A network of one's own takes one file and one option, and then works like medseg's."""

from __future__ import annotations

import pytest
import torch

from medseg.cli.commands import main
from medseg.config.check import load_config
from medseg.models.build import build_model

FILE = '''
from torch import Tensor, nn


class Line(nn.Module):
    """A single convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, *, spatial_dims: int = 3, width: int = 3
    ) -> None:
        super().__init__()
        kind = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.conv = kind(in_channels, out_channels, width, padding=width // 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image)
'''

OPTION = """# A single convolution: to try things out.
_target_: added_network.Line
spatial_dims: 3
width: 5
"""


@pytest.fixture
def added(tmp_path, monkeypatch):
    (tmp_path / "added_network.py").write_text(FILE)
    option = tmp_path / "conf" / "model" / "line.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(OPTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "added_network")


@pytest.mark.usefixtures("added")
def test_it_is_built_by_name_with_its_options():
    network = build_model("line", spatial_dims=2, in_channels=1, out_channels=4)

    assert network(torch.zeros(1, 1, 9, 7)).shape == (1, 4, 9, 7)
    assert network.conv.kernel_size == (5, 5)


@pytest.mark.usefixtures("added")
def test_training_takes_it_and_names_its_wrong_options():
    config = load_config("train", ["model=line", "model.width=7", "data.source.folder=x"])

    assert config.model.width == 7
    with pytest.raises(Exception, match=r"did you mean model\.width"):
        load_config("train", ["model=line", "+model.widht=7", "data.source.folder=x"])


@pytest.mark.usefixtures("added")
def test_the_doctor_measures_it(capsys):
    code = main(
        ["doctor", "model=line", "model.spatial_dims=2", "plan.patch_size=[16,16]",
         "plan.batch_size=1"]
    )  # fmt: skip

    printed = capsys.readouterr().out
    assert code == 0
    assert "Line, 2D" in printed
    assert "78" in printed  # 25 weights and a bias for each of 3 classes
    assert "5x5 voxels of the patch" in printed
