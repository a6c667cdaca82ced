from __future__ import annotations

import struct
import time

import pytest
from pydicom import Dataset
from pydicom.dataset import DataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from medseg.core.errors import InputError
from medseg.dicom.study_uid import study_uid_of


def encoded(dataset: Dataset, *, is_implicit: bool) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, is_implicit
    write_dataset(stream, dataset)
    return bytes(stream.getvalue())


def header(*, undefined: bool) -> Dataset:
    inner = Dataset()
    inner.StudyInstanceUID = "1.2.3.999"  # of a referenced study: not this one's
    outer = Dataset()
    outer.ReferencedSOPSequence = Sequence([inner])
    found = Dataset()
    found.SOPInstanceUID = "1.2.3.1"
    found.ReferencedStudySequence = Sequence([outer, outer])
    found.PatientName = "A^B"
    found.StudyInstanceUID = "1.2.3.4"
    found.SeriesInstanceUID = "1.2.3.5"
    for element in found.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
    return found


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("is_implicit", [False, True])
def test_the_studys_own_uid_is_found_behind_sequences(is_implicit, undefined):
    content = encoded(header(undefined=undefined), is_implicit=is_implicit)

    assert study_uid_of(content, is_implicit=is_implicit) == "1.2.3.4"


def test_an_element_of_unknown_representation_is_implicit_within():
    inner = encoded(header(undefined=True), is_implicit=True)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner
    item += struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    unknown = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + item
    unknown += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    own = Dataset()
    own.add(DataElement("StudyInstanceUID", "UI", "1.2.3.7"))

    content = unknown + encoded(own, is_implicit=False)

    assert study_uid_of(content, is_implicit=False) == "1.2.3.7"


def test_a_data_set_without_one_is_refused():
    lacking = Dataset()
    lacking.SOPInstanceUID, lacking.SeriesInstanceUID = "1.2", "1.3"

    for content in (encoded(lacking, is_implicit=False), b"", b"\0" * 7, b"\xff" * 64):
        with pytest.raises(InputError) as caught:
            study_uid_of(content, is_implicit=False)
        assert caught.value.code == "E_MISSING_TAG"


def test_a_hundred_thousand_nested_sequences_end_nothing():
    level = struct.pack("<HH2sHI", 0x0008, 0x1110, b"SQ", 0, 0xFFFFFFFF)
    level += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    began = time.process_time()

    with pytest.raises(InputError):
        study_uid_of(level * 100_000, is_implicit=False)

    assert time.process_time() - began < 10  # seconds; a second is usual
