"""Derived UIDs are valid, stable and distinct."""

import uuid

import pytest
from pydicom.uid import UID

from medseg.core.errors import ConfigError
from medseg.dicom.uids import derive_uid


def test_the_same_parts_give_the_same_uid():
    assert derive_uid("1.2.3", "bundle", "SEG") == derive_uid("1.2.3", "bundle", "SEG")


@pytest.mark.parametrize("other", [("1.2.3", "b"), ("b", "1.2.3", ""), ("1.2.3b",), ("1.2.", "3b")])
def test_other_parts_give_another_uid(other):
    assert derive_uid("1.2.3", "b", "") != derive_uid(*other)


def test_a_uid_below_2_25_is_a_uuid_of_version_8():
    uid = derive_uid("a")

    value = uuid.UUID(int=int(uid.removeprefix("2.25.")))
    assert UID(uid).is_valid
    assert value.version == 8
    assert value.variant == uuid.RFC_4122


def test_a_site_root_is_kept_within_64_characters():
    root = "1.2.826.0.1.3680043.8.498.1234567890123456"

    uid = derive_uid("a", root=root)

    assert uid.startswith(root + ".")
    assert UID(uid).is_valid


@pytest.mark.parametrize("root", ["", "2.25.", "1.02", "a.b", "1." + "2" * 45])
def test_a_wrong_root_is_refused(root):
    with pytest.raises(ConfigError, match=r"uid root: .* is no UID .*; use the site's own root"):
        derive_uid("a", root=root)
