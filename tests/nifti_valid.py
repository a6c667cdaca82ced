"""Odd NIfTI files that are to be read, with the answers known beforehand."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import numpy as np
from nifti_made import (
    ORIGIN_MM,
    SHAPE,
    SPACING_MM,
    Made,
    affine_of,
    content,
    header,
    oblique_affine,
    voxels,
)


def _valid() -> Iterator[Made]:
    array, plain = voxels(), affine_of()
    good: dict[str, Any] = {"values": array, "affine": plain}
    nii = content(array, sform=plain)
    zipped = gzip.compress(nii, mtime=0)

    yield Made("sform alone", {"a.nii": nii}, **good)
    yield Made("qform alone", {"a.nii": content(array, qform=plain)}, **good)
    yield Made("both agree", {"a.nii": content(array, sform=plain, qform=plain)}, **good)
    moved = plain.copy()
    moved[:3, 3] += (0.0, 3.0, 0.0)
    yield Made(
        "both differ by a shift",
        {"a.nii": content(array, sform=plain, qform=moved)},
        **good,
        note="sform and qform differ",
    )
    for orientation in ("LAS", "LPS", "PSR", "IRP", "SAL"):
        affine = affine_of(orientation)
        for form in ("sform", "qform"):
            yield Made(
                f"{form} {orientation}",
                {"a.nii": content(array, **{form: affine})},
                values=array,
                affine=affine,
            )
    oblique = oblique_affine()
    mirrored = oblique @ np.diag([1.0, 1.0, -1.0, 1.0])
    for name, affine in (("oblique", oblique), ("oblique left-handed", mirrored)):
        for form in ("sform", "qform"):
            made = content(array, **{form: affine})
            yield Made(f"{name} {form}", {"a.nii": made}, values=array, affine=affine)
    half_turn = affine_of("LPS")
    yield Made(
        "half-turn quaternion with rounding",
        {"a.nii": content(array, qform=half_turn, quatern_d=1.000001)},
        values=array,
        affine=half_turn,
    )
    yield Made("qfac 0", {"a.nii": content(array, qform=plain, pixdim={0: 0.0})}, **good)
    for dtype in ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        for order in "<>":
            stored = voxels(dtype)
            yield Made(
                f"{dtype} {'little' if order == '<' else 'big'} endian",
                {"a.nii": content(stored, sform=plain, order=order)},
                values=stored,
                affine=plain,
                dtype=dtype,
            )
    yield Made(
        "large 64-bit integers",
        {"a.nii": content(array.astype("i8") + 2**60, sform=plain)},
        values=array.astype("i8") + 2**60,
        affine=plain,
        dtype="i8",
    )
    yield Made(
        "slope and intercept",
        {"a.nii": content(array, sform=plain, scl_slope=0.5, scl_inter=-1024.0)},
        values=array * 0.5 - 1024.0,
        affine=plain,
        dtype="f4",
    )
    yield Made(
        "negative slope",
        {"a.nii": content(array, sform=plain, scl_slope=-2.0)},
        values=array * -2.0,
        affine=plain,
        dtype="f4",
    )
    wide = array.astype("i4") + 100_000_001
    yield Made(
        "scaled 32-bit integers keep their digits",
        {"a.nii": content(wide, sform=plain, scl_inter=1.0)},
        values=wide + 1.0,
        affine=plain,
        dtype="f8",
    )
    yield Made(
        "slope 0 with an intercept",
        {"a.nii": content(array, sform=plain, scl_slope=0.0, scl_inter=50.0)},
        **good,
        note="the intercept 50 is ignored",
        dtype="i2",
    )
    yield Made(
        "slope NaN",
        {"a.nii": content(array, sform=plain, scl_slope=np.nan, scl_inter=np.nan)},
        **good,
    )
    metres = plain.copy()
    metres[:3] *= 0.001
    yield Made(
        "metres",
        {
            "a.nii": content(
                array, sform=metres, xyzt_units=1, pixdim={1: 0.0015, 2: 0.002, 3: 0.00325}
            )
        },
        **good,
        note="given in metres",
    )
    yield Made(
        "micrometres with seconds",
        {
            "a.nii": content(
                array, sform=plain * 1000, xyzt_units=3 + 8, pixdim={1: 1500, 2: 2000, 3: 3250}
            )
        },
        **good,
        note="given in micrometres",
    )
    yield Made("unit not named", {"a.nii": content(array, sform=plain, xyzt_units=0)}, **good)
    for order in "<>":
        two = content(array, sform=plain, version=2, order=order)
        yield Made(f"NIfTI-2 {order}", {"a.nii": two}, **good)
    two = content(array, qform=oblique, version=2)
    yield Made("NIfTI-2 qform", {"a.nii.gz": gzip.compress(two)}, values=array, affine=oblique)
    pair = header(array, sform=plain, is_pair=True).binaryblock
    yield Made("pair by .hdr", {"a.hdr": pair, "a.img": array.tobytes("F")}, **good)
    yield Made("pair by .img", {"a.img": array.tobytes("F"), "a.hdr": pair}, **good)
    yield Made(
        "compressed pair",
        {"a.hdr.gz": gzip.compress(pair), "a.img.gz": gzip.compress(array.tobytes("F"))},
        **good,
    )
    late = header(array, sform=plain, is_pair=True, vox_offset=16).binaryblock
    yield Made("pair with offset", {"a.hdr": late, "a.img": bytes(16) + array.tobytes("F")}, **good)
    two_pair = header(array, sform=plain, is_pair=True, version=2).binaryblock
    yield Made("NIfTI-2 pair", {"a.hdr": two_pair, "a.img": array.tobytes("F")}, **good)
    yield Made("compressed", {"a.nii.gz": zipped}, **good)
    members = gzip.compress(nii[:400]) + gzip.compress(nii[400:])
    yield Made("two gzip members", {"a.nii.gz": members}, **good)
    yield Made("gzip padded with zeros", {"a.nii.gz": zipped + bytes(512)}, **good)
    junk = zipped + b"junk at the end"
    note = "15 bytes after the voxels are ignored"
    yield Made("gzip with other bytes after it", {"a.nii.gz": junk}, **good, note=note)
    yield Made("bytes after the voxels", {"a.nii": nii + b"x" * 15}, **good, note=note)
    yield Made("compressed, named .nii", {"a.nii": zipped}, **good)
    yield Made("plain, named .nii.gz", {"a.nii.gz": nii}, **good)
    yield Made("upper case name", {"A.NII.GZ": zipped}, **good)
    comment = (
        b"\1\0\0\0" + np.array([32, 6], "<i4").tobytes() + b"a comment of 24 bytes...".ljust(24)
    )
    extended = content(array, sform=plain, vox_offset=384, extension=comment)
    yield Made("header extension", {"a.nii": extended}, **good)
    yield Made("late offset", {"a.nii": content(array, sform=plain, vox_offset=4096)}, **good)
    yield Made(
        "text fields that are not UTF-8",
        {"a.nii": content(array, sform=plain, descrip=b"\xff\xfe\x80")},
        **good,
    )
    yield Made(
        "intent of a label map", {"a.nii": content(array, sform=plain, intent_code=1002)}, **good
    )
    yield Made("template code 5", {"a.nii": content(array, sform=plain, sform_code=5)}, **good)
    time = voxels(shape=(*SHAPE, 6))
    yield Made(
        "4D",
        {"a.nii": content(time, sform=plain)},
        values=np.moveaxis(time, 3, 0),
        affine=plain,
        note="axis 4 is read as 6 channels",
    )
    vector = voxels("f4", shape=(*SHAPE, 1, 2))
    yield Made(
        "5D vector field",
        {"a.nii": content(vector, sform=plain)},
        values=np.moveaxis(vector[..., 0, :], 3, 0),
        affine=plain,
        note="axis 5 is read as 2 channels",
    )
    yield Made("4D of one volume", {"a.nii": content(array[..., None], sform=plain)}, **good)
    seven = array.reshape(*SHAPE, 1, 1, 1, 1)
    yield Made("7D of one volume", {"a.nii": content(seven, sform=plain)}, **good)
    flat = voxels(shape=(5, 4))
    yield Made(
        "2D",
        {"a.nii": content(flat, sform=plain)},
        values=flat[..., None],
        affine=plain,
    )
    no_third = plain.copy()
    no_third[:3, 2] = 0
    unit_third = plain.copy()
    unit_third[:3, 2] = (0, 0, 1)
    yield Made(
        "2D without a third axis",
        {"a.nii": content(flat, sform=plain, srow_z=[0, 0, 0, ORIGIN_MM[2]], pixdim={3: 0.0})},
        values=flat[..., None],
        affine=unit_third,
        note="slice thickness of the 2D image is unknown",
    )
    slab = voxels(shape=(5, 4, 1))
    yield Made("single slice", {"a.nii": content(slab, sform=plain)}, values=slab, affine=plain)
    yield Made(
        "odd numbers in unused dims",
        {"a.nii": content(array, sform=plain, dim={5: 0, 6: -3})},
        **good,
    )
    yield Made(
        "negative pixdim beside a sform",
        {"a.nii": content(array, sform=plain, pixdim={1: -1.5})},
        **good,
        note="negative voxel size",
    )
    yield Made(
        "pixdim that differs from the sform",
        {"a.nii": content(array, sform=plain, pixdim={1: 3.0})},
        **good,
        note="the voxel size follows the sform",
    )
    yield Made(
        "broken qform beside a sform",
        {"a.nii": content(array, sform=plain, qform=plain, quatern_b=np.nan)},
        **good,
        note="the qform is not a rotation",
    )
    yield Made(
        "wrong bits per voxel, right length",
        {"a.nii": content(array, sform=plain, bitpix=8)},
        **good,
        note="bits per voxel in the header are wrong",
    )
    holes = voxels("f4")
    holes[1, 2, 0], holes[0, 0, 1] = np.nan, np.inf
    yield Made(
        "NaN and infinity",
        {"a.nii": content(holes, sform=plain)},
        values=holes,
        affine=plain,
        note="2 voxels are NaN or infinite",
    )
    yield Made(
        "no orientation, allowed",
        {"a.nii": content(array)},
        values=array,
        affine=np.diag([*SPACING_MM, 1.0]),
        note="the orientation is unknown",
        options={"allow_unknown_orientation": True},
    )


VALID = list(_valid())
