"""Damaged, contradictory and hostile NIfTI files, with the codes they are to be refused with."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
from nifti_made import SHAPE, Made, affine_of, content, header, voxels
from numpy.typing import NDArray


def _refused() -> Iterator[Made]:
    array, plain = voxels(), affine_of()
    nii = content(array, sform=plain)
    zipped = bytearray(gzip.compress(nii, mtime=0))

    def bent(name: str, code: str, values: NDArray[Any] = array, **options: Any) -> Made:
        options.setdefault("sform", plain)
        return Made(name, {"a.nii": content(values, **options)}, code)

    def flipped(position: int) -> bytes:
        changed = bytearray(zipped)
        changed[position] ^= 0x55
        return bytes(changed)

    yield Made("empty file", {"a.nii": b""}, "E_TRUNCATED")
    yield Made("empty compressed file", {"a.nii.gz": gzip.compress(b"")}, "E_TRUNCATED")
    yield Made("hundred bytes", {"a.nii": nii[:100]}, "E_TRUNCATED")
    yield Made("header alone", {"a.nii": nii[:348]}, "E_TRUNCATED")
    yield Made("header and offset, no voxels", {"a.nii": nii[:352]}, "E_TRUNCATED")
    yield Made("one byte short", {"a.nii": nii[:-1]}, "E_TRUNCATED")
    yield Made("half", {"a.nii": nii[: len(nii) // 2]}, "E_TRUNCATED")
    yield Made("gzip of a cut file", {"a.nii.gz": gzip.compress(nii[:-9])}, "E_TRUNCATED")
    yield Made("gzip cut in the voxels", {"a.nii.gz": bytes(zipped[:-40])}, "E_TRUNCATED")
    yield Made("gzip cut in its trailer", {"a.nii.gz": bytes(zipped[:-3])}, "E_TRUNCATED")
    yield Made("gzip without its trailer", {"a.nii.gz": bytes(zipped[:-8])}, "E_TRUNCATED")
    yield Made("gzip with a wrong CRC", {"a.nii.gz": flipped(-7)}, "E_CHECKSUM")
    yield Made("gzip with a wrong length", {"a.nii.gz": flipped(-1)}, "E_CHECKSUM")
    stored = zlib.compressobj(0, wbits=31)
    raw_gzip = bytearray(stored.compress(nii) + stored.flush())
    raw_gzip[-20] ^= 1
    yield Made("gzip with a changed voxel", {"a.nii.gz": bytes(raw_gzip)}, "E_CHECKSUM")
    yield Made(
        "gzip of noise", {"a.nii.gz": b"\x1f\x8b\x08\0" + bytes(range(200))}, "E_COMPRESSION"
    )
    second_cut = gzip.compress(nii[:400]) + gzip.compress(nii[400:])[:-30]
    yield Made("second gzip member cut", {"a.nii.gz": second_cut}, "E_TRUNCATED")
    bomb = gzip.compress(nii + bytes(65 << 20), 1)
    yield Made("65 MiB after the voxels", {"a.nii.gz": bomb}, "E_TOO_LARGE")
    yield Made(
        "offset past the end",
        {"a.nii": nii[:108] + np.float32(1e6).tobytes() + nii[112:]},
        "E_TRUNCATED",
    )
    yield bent("offset in the header", "E_HEADER", vox_offset=348.0)
    yield bent("offset 0", "E_HEADER", vox_offset=0.0)
    yield bent("offset with a fraction", "E_HEADER", vox_offset=352.5)
    yield bent("offset NaN", "E_HEADER", vox_offset=np.nan)
    yield bent("offset negative", "E_HEADER", vox_offset=-352.0)
    yield Made(
        "offset negative in NIfTI-2",
        {"a.nii": content(array, sform=plain, version=2, vox_offset=-1)},
        "E_HEADER",
    )
    yield bent("header length 349", "E_HEADER", sizeof_hdr=349)
    yield bent("no signature", "E_ANALYZE", magic=b"")
    yield bent("wrong signature", "E_ANALYZE", magic=b"n+3")
    yield bent("signature of a pair in .nii", "E_HEADER", magic=b"ni1")
    yield Made(
        "NIfTI-2 signature without its line ends",
        {"a.nii": content(array, sform=plain, version=2, eol_check={0: 10})},
        "E_HEADER",
    )
    yield Made("single file named .hdr", {"a.hdr": nii}, "E_HEADER")
    pair = header(array, sform=plain, is_pair=True).binaryblock
    yield Made(".hdr without .img", {"a.hdr": pair}, "E_NO_FILE")
    yield Made(".img without .hdr", {"a.img": array.tobytes("F")}, "E_NO_FILE")
    yield Made(
        "pair with a short .img", {"a.hdr": pair, "a.img": array.tobytes("F")[:-1]}, "E_TRUNCATED"
    )
    analyze = nib.AnalyzeHeader()
    analyze.set_data_shape(SHAPE)
    analyze.set_data_dtype(np.int16)
    yield Made(
        "ANALYZE 7.5", {"a.hdr": analyze.binaryblock, "a.img": array.tobytes("F")}, "E_ANALYZE"
    )
    yield bent("no axes", "E_DIMENSIONS", dim={0: 0})
    yield bent("eight axes", "E_DIMENSIONS", dim={0: 8})
    yield bent("negative number of axes", "E_DIMENSIONS", dim={0: -3})
    yield bent("one axis", "E_DIMENSIONS", dim={0: 1})
    yield bent("extent 0", "E_DIMENSIONS", dim={2: 0})
    yield bent("negative extent", "E_DIMENSIONS", dim={3: -3})
    yield bent("two axes beyond the third", "E_DIMENSIONS", voxels(shape=(*SHAPE, 2, 3)))
    yield bent("sixth axis", "E_DIMENSIONS", voxels(shape=(*SHAPE, 1, 1, 2)))
    yield bent("60 GB by the header", "E_TOO_LARGE", dim={1: 32000, 2: 32000, 3: 30})
    huge = content(array, sform=plain, dim={1: 32000, 2: 32000, 3: 30})
    yield Made("60 GB by the header, compressed", {"a.nii.gz": gzip.compress(huge)}, "E_TOO_LARGE")
    yield bent("1 GB by the header", "E_TRUNCATED", dim={1: 1000, 2: 1000, 3: 500})
    large = content(array, sform=plain, dim={1: 1000, 2: 1000, 3: 500})
    yield Made("1 GB by the header, compressed", {"a.nii.gz": gzip.compress(large)}, "E_TRUNCATED")
    beyond = {1: 2**62, 2: 2**62, 3: 2**62}
    yield Made(
        "extents whose product overflows",
        {"a.nii": content(array, sform=plain, version=2, dim=beyond)},
        "E_TOO_LARGE",
    )
    for name, dtype in (("complex64", "c8"), ("complex128", "c16")):
        yield bent(name, "E_DTYPE", array.astype(dtype))
    yield bent("128-bit floats", "E_DTYPE", array.astype("c16"), datatype=1536)
    for name, code in (
        ("one bit per voxel", 1),
        ("RGB", 128),
        ("RGBA", 2304),
        ("unknown type", 77),
        ("type 0", 0),
    ):
        yield bent(name, "E_DTYPE", datatype=code)
    yield bent("voxel size 0", "E_SPACING", pixdim={2: 0.0})
    yield bent("voxel size NaN", "E_SPACING", pixdim={3: np.nan})
    yield bent("voxel size infinite", "E_SPACING", pixdim={1: np.inf})
    yield bent(
        "negative voxel size with a qform", "E_SPACING", sform=None, qform=plain, pixdim={1: -1.5}
    )
    tiny = plain.copy()
    tiny[:3, :3] *= 1e-8
    yield bent("voxels of an atom's size", "E_SPACING", sform=tiny)
    yield bent("sform with NaN", "E_AFFINE", srow_x=[np.nan, 0, 0, 0])
    yield bent("sform of zeros", "E_AFFINE", srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4)
    yield bent("sform with two equal axes", "E_AFFINE", srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0])
    yield bent("broken sform beside a good qform", "E_AFFINE", qform=plain, srow_x=[np.nan] * 4)
    yield bent("sheared sform", "E_SHEAR", srow_x=[1.5, 0.4, 0, 0])
    yield bent(
        "quaternion longer than 1",
        "E_AFFINE",
        sform=None,
        qform=plain,
        quatern_b=0.9,
        quatern_c=0.9,
    )
    yield bent("quaternion NaN", "E_AFFINE", sform=None, qform=plain, quatern_d=np.nan)
    yield bent("qform offset NaN", "E_AFFINE", sform=None, qform=plain, qoffset_y=np.nan)
    yield bent("qfac 7", "E_AFFINE", sform=None, qform=plain, pixdim={0: 7.0})
    yield bent("no orientation", "E_NO_ORIENTATION", sform=None)
    yield bent("sform and qform mirrored", "E_LATERALITY", qform=affine_of("LAS"))
    yield bent("sform and qform turned by half", "E_LATERALITY", qform=affine_of("LPS"))
    yield bent("sform code 99", "E_HEADER", sform_code=99)
    yield bent("qform code -1", "E_HEADER", qform_code=-1)
    yield bent("unit of length 5", "E_UNITS", xyzt_units=5)
    yield bent("slope infinite", "E_SCALING", scl_slope=np.inf)
    yield bent("intercept NaN", "E_SCALING", scl_slope=2.0, scl_inter=np.nan)
    yield bent("scaled beyond float32", "E_SCALING", scl_slope=3e38)
    yield Made(
        "wrong bits per voxel, wrong length",
        {"a.nii": content(array, sform=plain, datatype=2)},
        "E_HEADER",
    )
    yield Made(
        "text", {"a.nii": b"these are not the voxels you are looking for\n" * 20}, "E_HEADER"
    )
    yield Made("DICOM", {"a.nii": bytes(128) + b"DICM" + bytes(600)}, "E_HEADER")
    yield Made("PNG", {"a.nii": b"\x89PNG\r\n\x1a\n" + bytes(600)}, "E_HEADER")


REFUSED = list(_refused())
