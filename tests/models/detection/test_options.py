"""Options that no network can be built of, or only a useless one."""

from __future__ import annotations

import pytest
from network_options import small_network

from medseg.core.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("mask2former", "num_queries", 0),
        ("mask2former", "num_layers", -1),
        ("mask2former", "num_heads", -1),
        ("mask2former", "num_points", 0),
        ("mask2former", "pyramid_channels", 0),
        ("yolact", "num_prototypes", 0),
        ("yolact", "num_anchors", -1),
        ("yolact", "max_iou", 2.0),
        ("mask_rcnn", "num_samples", 0),
        ("mask_rcnn", "max_proposals", 0),
        ("mask_rcnn", "mask_layers", -1),
        ("mask_rcnn", "dense_weight", -1.0),
        ("mask_rcnn", "dense_weight", float("inf")),
        ("panoptic_fpn", "num_anchors", 0),
    ],
)
def test_an_option_out_of_range_is_named_with_its_range(name, option, value):
    with pytest.raises(
        ConfigError, match=rf"model\.{option}: is {value:g}; use [01] (or more|to 1)"
    ):
        small_network(name, 2, **{option: value})


@pytest.mark.parametrize("name", ["mask_rcnn", "yolact", "mask2former", "panoptic_fpn"])
@pytest.mark.parametrize("sizes", [[[0, 4]], [[4.0]], [[4, 4, 4]], [[4, 4], [-1, 4]]])
def test_sizes_that_no_object_has_are_refused(name, sizes):
    with pytest.raises(ConfigError, match=r"model\.object_sizes: has \[.*give 2 numbers"):
        small_network(name, 2, object_sizes=sizes)


@pytest.mark.parametrize("name", ["mask_rcnn", "yolact", "mask2former", "panoptic_fpn"])
def test_a_finest_stride_without_axes_is_refused(name):
    with pytest.raises(ConfigError, match=r"model\.finest_stride: is \[\]"):
        small_network(name, 2, finest_stride=[])
