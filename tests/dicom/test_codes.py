"""Label names become the codes that DICOM's own tables hold."""

import pytest
from pydicom.sr._concepts_dict import concepts

from medseg.core.labels import CodedConcept, Label
from medseg.dicom import codes
from medseg.dicom.codes import segment_codes

LEFT = CodedConcept("7771000", "SCT", "Left")
RIGHT = CodedConcept("24028007", "SCT", "Right")
# SNOMED CT codes that PS3.16 does not list.
OUTSIDE_DICOM = {value for value, _ in codes._RIBS} | {"181674001", "78333006", "75297007"}

TOTALSEGMENTATOR = [
    "spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas",
    "adrenal_gland_right", "adrenal_gland_left", "lung_upper_lobe_left", "lung_lower_lobe_left",
    "lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right", "esophagus",
    "trachea", "thyroid_gland", "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate",
    "kidney_cyst_left", "kidney_cyst_right", "sacrum", "vertebrae_L5", "vertebrae_T12",
    "vertebrae_C1", "heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk",
    "subclavian_artery_right", "common_carotid_artery_left", "brachiocephalic_vein_left",
    "atrial_appendage_left", "superior_vena_cava", "inferior_vena_cava",
    "portal_vein_and_splenic_vein", "iliac_artery_left", "iliac_vena_right", "humerus_left",
    "scapula_left", "clavicula_left", "femur_left", "hip_left", "spinal_cord",
    "gluteus_maximus_left", "gluteus_medius_left", "gluteus_minimus_right", "autochthon_left",
    "brain", "skull", "rib_left_1", "rib_right_12", "sternum", "costal_cartilages",
    "heart_atrium_left", "heart_myocardium",
]  # fmt: skip


def meanings_in_dicom():
    meanings = {}
    for entries in concepts["SCT"].values():
        for value, (meaning, _) in entries.items():
            meanings.setdefault(value, set()).add(meaning.lower())
    return meanings


def all_table_entries():
    for table in (codes._ABNORMAL, codes._TISSUES, codes._ANATOMY):
        yield from table.values()
    for level, value in codes._VERTEBRAE.items():
        yield value, f"{level.upper()} vertebra"
    for concept in (*codes._MODIFIERS.values(), codes.ANATOMICAL_STRUCTURE, codes.TISSUE):
        yield concept.value, concept.meaning


def test_every_code_of_the_table_means_in_dicom_what_it_says_here():
    known = meanings_in_dicom()

    wrong = [
        (value, meaning)
        for value, meaning in all_table_entries()
        if value not in OUTSIDE_DICOM
        and not any(meaning.lower() in other for other in known.get(value, ()))
    ]

    assert wrong == []


@pytest.mark.parametrize("value", sorted({value for value, _ in all_table_entries()}))
def test_every_code_has_the_check_digit_of_snomed(value):
    # Verhoeff's dihedral check, as SNOMED CT defines it for its identifiers.
    multiply = [[(a + b) % 5 if b < 5 else (a + b) % 5 + 5 for b in range(10)] for a in range(5)]
    multiply += [
        [(a - b) % 5 + 5 if b < 5 else (a - b) % 5 for b in range(10)] for a in range(5, 10)
    ]
    permute = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    for n in range(2, 8):
        permute.append([permute[n - 1][permute[1][digit]] for digit in range(10)])

    check = 0
    for position, digit in enumerate(reversed(value)):
        check = multiply[check][permute[position % 8][int(digit)]]

    assert check == 0


@pytest.mark.parametrize("name", ["kidney_left", "Left Kidney", "kidney-left", "left kidneys"])
def test_a_side_is_a_modifier_wherever_it_stands(name):
    found = segment_codes(Label(name, 1))

    assert found.type == CodedConcept("64033007", "SCT", "Kidney")
    assert found.category == codes.ANATOMICAL_STRUCTURE
    assert found.modifiers == (LEFT,)


@pytest.mark.parametrize("name", ["liver_tumour", "tumor liver", "Liver-Cancer"])
def test_a_tumour_is_abnormal_and_lies_in_its_organ(name):
    found = segment_codes(Label(name, 2))

    assert found.category.value == "49755003"
    assert found.type.value == "108369006"
    assert found.region == CodedConcept("10200004", "SCT", "Liver")


def test_a_cyst_keeps_the_side_of_its_kidney():
    found = segment_codes(Label("kidney_cyst_right", 2))

    assert (found.type.meaning, found.region.meaning) == ("Cyst", "Kidney")
    assert found.modifiers == (RIGHT,)


@pytest.mark.parametrize("name", TOTALSEGMENTATOR)
def test_common_organ_names_are_known(name):
    assert segment_codes(Label(name, 1)).is_known


def test_each_rib_and_vertebra_has_its_own_code():
    names = [f"rib_left_{n}" for n in range(1, 13)] + [f"vertebrae_T{n}" for n in range(1, 13)]

    values = {segment_codes(Label(name, 1)).type.value for name in names}

    assert len(values) == len(names)


def test_a_labels_own_codes_win_and_its_name_still_gives_the_part():
    own = CodedConcept("5366008", "SCT", "Hippocampus")

    found = segment_codes(Label("anterior", 1, type=own))

    assert found.type == own
    assert found.category == codes.ANATOMICAL_STRUCTURE
    assert [modifier.meaning for modifier in found.modifiers] == ["Anterior"]


def test_a_side_that_the_type_already_says_is_not_repeated():
    found = segment_codes(Label("left_ventricle", 1))

    assert found.type.meaning == "Left ventricle"
    assert found.modifiers == ()


def test_an_unknown_name_gets_the_general_code_and_is_marked():
    found = segment_codes(Label("zorgle_of_the_second_kind", 1))

    assert not found.is_known
    assert found.category == found.type == codes.ANATOMICAL_STRUCTURE
    assert segment_codes(Label("liver", 1)).is_known
