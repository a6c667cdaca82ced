"""torchvision's FCN and DeepLab v3 on ResNets, written from their published definitions.

Names of parameters and their order are torchvision's; `python` with torchvision installed gives the
same counts and, from the same weights, the same outputs (checked by hand with torchvision 0.28).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride=stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    """ResNet whose last two layers dilate by 2 and 4 in place of their strides."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        settings = zip(DEPTHS[depth], (1, 2, 1, 1), (1, 1, 1, 2), (1, 1, 2, 4), strict=True)
        for n, (blocks, stride, first, rest) in enumerate(settings):
            width = 64 * 2**n
            layer = [Bottleneck(inputs, width, stride, first)]
            layer += [Bottleneck(4 * width, width, 1, rest) for _ in range(blocks - 1)]
            setattr(self, f"layer{n + 1}", nn.Sequential(*layer))
            inputs = 4 * width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        auxiliary = self.layer3(self.layer2(self.layer1(x)))
        return self.layer4(auxiliary), auxiliary


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def branch(size: int, rate: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(
                2048, 256, size, padding=rate * (size // 2), dilation=rate, bias=False
            )
            return nn.Sequential(convolution, nn.BatchNorm2d(256), nn.ReLU())

        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *branch(1))
        self.convs = nn.ModuleList([branch(1), *(branch(3, r) for r in (12, 24, 36)), pooled])
        self.project = nn.Sequential(
            nn.Conv2d(5 * 256, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU(), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            F.interpolate(convolution(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
            for convolution in self.convs
        ]
        return self.project(torch.cat(parts, 1))


def plain_head(inputs: int, classes: int) -> nn.Sequential:
    width = inputs // 4
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(width, classes, 1),
    )


class TorchvisionNetwork(nn.Module):
    """fcn_resnet50 or -101 (kind "fcn"), deeplabv3_resnet50 or -101 ("deeplabv3"), with the
    auxiliary classifier.
    """

    def __init__(self, kind: str, depth: int, *, classes: int = 21) -> None:
        super().__init__()
        self.backbone = Backbone(depth)
        if kind == "fcn":
            self.classifier = plain_head(2048, classes)
        else:
            self.classifier = nn.Sequential(
                Pyramid(),
                nn.Conv2d(256, 256, 3, padding=1, bias=False),
                nn.BatchNorm2d(256),
                nn.ReLU(),
                nn.Conv2d(256, classes, 1),
            )
        self.aux_classifier = plain_head(1024, classes)

    def forward(self, x: Tensor) -> list[Tensor]:
        features, auxiliary = self.backbone(x)
        return [
            F.interpolate(part, size=x.shape[-2:], mode="bilinear", align_corners=False)
            for part in (self.classifier(features), self.aux_classifier(auxiliary))
        ]
