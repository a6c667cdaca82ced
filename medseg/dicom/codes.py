"""Coded concepts for labels: what a label's name means in SNOMED CT, as DICOM objects need it.

The table is for labels whose configuration gives no code of its own; a label's own code always
wins. Every code stands in the concept tables of DICOM PS3.16, except the single ribs and the
three gluteal muscles, which are SNOMED CT's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medseg.core.labels import CodedConcept, Label

SCT = "SCT"

ANATOMICAL_STRUCTURE = CodedConcept("91723000", SCT, "Anatomical Structure")
ABNORMAL_STRUCTURE = CodedConcept("49755003", SCT, "Morphologically Abnormal Structure")
TISSUE = CodedConcept("85756007", SCT, "Tissue")

# Type modifiers by the word in a label's name (PS3.16 CID 244 and CID 2).
_MODIFIERS = {
    "left": CodedConcept("7771000", SCT, "Left"),
    "right": CodedConcept("24028007", SCT, "Right"),
    "anterior": CodedConcept("255549009", SCT, "Anterior"),
    "posterior": CodedConcept("255551008", SCT, "Posterior"),
}

_ABNORMAL = {
    "tumor": ("108369006", "Neoplasm"),
    "neoplasm": ("108369006", "Neoplasm"),
    "cancer": ("108369006", "Neoplasm"),
    "metastasis": ("14799000", "Neoplasm, Secondary"),
    "mass": ("4147007", "Mass"),
    "lesion": ("52988006", "Lesion"),
    "nodule": ("27925004", "Nodule"),
    "cyst": ("367643001", "Cyst"),
    "edema": ("79654002", "Edema"),
    "necrosis": ("6574001", "Necrosis"),
    "hemorrhage": ("50960005", "Hemorrhage"),
    "pleural effusion": ("60046008", "Pleural effusion"),
}

_TISSUES = {
    "fat": ("256674009", "Fat"),
    "muscle": ("71616004", "Muscle"),
    "subcutaneous tissue": ("71966008", "Subcutaneous tissue"),
    "gray matter": ("389081007", "Gray Matter"),
    "white matter": ("389080008", "White Matter"),
    "cerebral white matter": ("68523003", "Cerebral White Matter"),
    "spinal cord gray matter": ("12958003", "Spinal cord gray matter"),
    "spinal cord white matter": ("27088001", "Spinal cord white matter"),
    "bone marrow": ("14016003", "Bone Marrow"),
}

_ANATOMY = {
    "adrenal gland": ("23451007", "Adrenal gland"),
    "amygdala": ("4958002", "Amygdala"),
    "aorta": ("15825003", "Aorta"),
    "aortic arch": ("57034009", "Aortic arch"),
    "abdominal aorta": ("7832008", "Abdominal aorta"),
    "atrium left": ("82471001", "Left atrium"),
    "atrium right": ("73829009", "Right atrium"),
    "atrial appendage left": ("33626005", "Left auricular appendage"),
    "autochthon": ("44947003", "Erector spinae muscle"),
    "bladder": ("89837001", "Bladder"),
    "blood vessel": ("59820001", "Blood Vessel"),
    "bone": ("272673000", "Bone"),
    "brachiocephalic trunk": ("12691009", "Innominate artery"),
    "brachiocephalic vein": ("8887007", "Innominate vein"),
    "brain": ("12738006", "Brain"),
    "brain stem": ("119238007", "Brain Stem"),
    "breast": ("76752008", "Breast"),
    "carotid artery": ("69105007", "Carotid Artery"),
    "common carotid artery": ("32062004", "Common carotid artery"),
    "caudate nucleus": ("11000004", "Caudate Nucleus"),
    "cell": ("4421005", "Cell"),
    "cerebellum": ("113305005", "Cerebellum"),
    "cerebral cortex": ("40146001", "Cerebral cortex"),
    "clavicle": ("51299004", "Clavicle"),
    "colon": ("71854001", "Colon"),
    "costal cartilage": ("50016007", "Costal Cartilage"),
    "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"),
    "eye": ("81745001", "Eye"),
    "femur": ("71341001", "Femur"),
    "fibula": ("87342007", "Fibula"),
    "gallbladder": ("28231008", "Gallbladder"),
    "globus pallidus": ("14738005", "Globus Pallidus"),
    "gluteus maximus": ("181674001", "Gluteus maximus muscle"),
    "gluteus medius": ("78333006", "Gluteus medius muscle"),
    "gluteus minimus": ("75297007", "Gluteus minimus muscle"),
    "heart": ("80891009", "Heart"),
    "hepatic artery": ("76015000", "Hepatic artery"),
    "hepatic vein": ("8993003", "Hepatic vein"),
    "hip": ("29836001", "Hip"),
    "hippocampus": ("5366008", "Hippocampus"),
    "humerus": ("85050009", "Humerus"),
    "iliac artery": ("73634005", "Common iliac artery"),
    "iliac vein": ("46027005", "Common iliac vein"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "kidney": ("64033007", "Kidney"),
    "large intestine": ("14742008", "Large intestine"),
    "lens": ("78076003", "Lens"),
    "liver": ("10200004", "Liver"),
    "lung": ("39607008", "Lung"),
    "lower lobe of lung": ("90572001", "Lower lobe of lung"),
    "middle lobe of lung": ("72481006", "Middle lobe of right lung"),
    "upper lobe of lung": ("45653009", "Upper lobe of lung"),
    "mandible": ("91609006", "Mandible"),
    "maxilla": ("70925003", "Maxilla"),
    "myocardium": ("122448007", "Cardiac muscle"),
    "nucleus accumbens": ("427667007", "Nucleus Accumbens"),
    "optic chiasm": ("244453006", "Optic chiasm"),
    "optic nerve": ("18234004", "Optic nerve"),
    "ovary": ("15497006", "Ovary"),
    "pancreas": ("15776009", "Pancreas"),
    "parotid gland": ("45289007", "Parotid gland"),
    "patella": ("64234005", "Patella"),
    "pericardium": ("76848001", "Pericardium"),
    "portal vein": ("32764006", "Portal vein"),
    "prostate": ("41216001", "Prostate"),
    "pulmonary artery": ("81040000", "Pulmonary artery"),
    "pulmonary vein": ("122972007", "Pulmonary vein"),
    "putamen": ("89278009", "Putamen"),
    "radius": ("62413002", "Radius"),
    "rectum": ("34402009", "Rectum"),
    "rib": ("113197003", "Rib"),
    "sacrum": ("54735007", "Sacrum"),
    "scapula": ("79601000", "Scapula"),
    "skin": ("39937001", "Skin"),
    "skull": ("89546000", "Skull"),
    "small intestine": ("30315005", "Small intestine"),
    "spinal cord": ("2748008", "Spinal cord"),
    "spleen": ("78961009", "Spleen"),
    "splenic vein": ("35819009", "Splenic vein"),
    "sternum": ("56873002", "Sternum"),
    "stomach": ("69695003", "Stomach"),
    "subclavian artery": ("36765005", "Subclavian artery"),
    "submandibular gland": ("54019009", "Submandibular gland"),
    "superior vena cava": ("48345005", "Superior vena cava"),
    "testis": ("40689003", "Testis"),
    "thalamus": ("42695009", "Thalamus"),
    "thyroid": ("69748006", "Thyroid"),
    "tibia": ("12611008", "Tibia"),
    "trachea": ("44567001", "Trachea"),
    "ulna": ("23416004", "Ulna"),
    "uterus": ("35039007", "Uterus"),
    "ventricle left": ("87878005", "Left ventricle"),
    "ventricle right": ("53085002", "Right ventricle"),
    "vertebra": ("51282000", "Vertebra"),
}

_RIBS = (
    ("48535007", "First rib"), ("78247007", "Second rib"), ("25888004", "Third rib"),
    ("25523003", "Fourth rib"), ("15339008", "Fifth rib"), ("59558009", "Sixth rib"),
    ("24915002", "Seventh rib"), ("5953002", "Eighth rib"), ("22565002", "Ninth rib"),
    ("77644006", "Tenth rib"), ("58830002", "Eleventh rib"), ("43993008", "Twelfth rib"),
)  # fmt: skip
_VERTEBRAE = {
    "c1": "14806007", "c2": "39976000", "c3": "113205007", "c4": "5329002", "c5": "36978003",
    "c6": "36054005", "c7": "87391001", "t1": "64864005", "t2": "53733008", "t3": "1626008",
    "t4": "73071006", "t5": "56401006", "t6": "45296009", "t7": "62487009", "t8": "11068009",
    "t9": "82687006", "t10": "7610001", "t11": "12989004", "t12": "23215003", "l1": "66794005",
    "l2": "14293000", "l3": "36470004", "l4": "11994002", "l5": "49668003",
}  # fmt: skip

# Other spellings of a whole name, and of a single word.
_NAMES = {
    "adrenal": "adrenal gland",
    "heart atrium left": "atrium left",
    "heart atrium right": "atrium right",
    "heart myocardium": "myocardium",
    "brainstem": "brain stem",
    "caudate": "caudate nucleus",
    "accumbens": "nucleus accumbens",
    "pallidum": "globus pallidus",
    "clavicula": "clavicle",
    "cortex": "cerebral cortex",
    "grey matter": "gray matter",
    "iliac vena": "iliac vein",
    "lung lower lobe": "lower lobe of lung",
    "lung middle lobe": "middle lobe of lung",
    "lung upper lobe": "upper lobe of lung",
    "lower lobe lung": "lower lobe of lung",
    "middle lobe lung": "middle lobe of lung",
    "upper lobe lung": "upper lobe of lung",
    "left ventricular cavity": "ventricle left",
    "parotid": "parotid gland",
    "portal vein and splenic vein": "portal vein",
    "small bowel": "small intestine",
    "thyroid gland": "thyroid",
    "urinary bladder": "bladder",
    "vessel": "blood vessel",
    "heart ventricle left": "ventricle left",
    "heart ventricle right": "ventricle right",
}
_WORDS = {
    "tumour": "tumor", "tumours": "tumor", "tumors": "tumor", "oedema": "edema",
    "haemorrhage": "hemorrhage", "oesophagus": "esophagus", "lesions": "lesion",
    "nodules": "nodule", "cysts": "cyst", "metastases": "metastasis", "vessels": "vessel",
    "vertebrae": "vertebra", "ribs": "rib", "kidneys": "kidney", "lungs": "lung",
    "cartilages": "cartilage", "bones": "bone", "cells": "cell", "muscles": "muscle",
    "hippocampal": "hippocampus", "renal": "kidney", "pancreatic": "pancreas",
}  # fmt: skip


@dataclass(frozen=True)
class SegmentCodes:
    """The codes that describe one segment.

    Args:
        category: kind of property.
        type: the property itself.
        modifiers: laterality and the like, refining `type`.
        region: the organ that an abnormal structure lies in; None for anatomy, or if unknown.
        is_known: False if the name is in no table, so that `type` says nothing particular.
    """

    category: CodedConcept
    type: CodedConcept
    modifiers: tuple[CodedConcept, ...] = ()
    region: CodedConcept | None = None
    is_known: bool = True


def segment_codes(label: Label) -> SegmentCodes:
    """All codes of a label: its own where it has them, else what its name says.

    Names are read as words: `kidney_left`, `Left Kidney` and `kidney-left` are one. A word such as
    "tumour" makes an abnormal structure whose region is the organ that the other words name. A name
    in no table becomes the general "Anatomical Structure", and writers say so beside the name: a
    private code would tell no viewer more than the name does.
    """
    words = _words_of(label.name)
    named = _by_name(words)
    if label.type is None and named is not None:
        return SegmentCodes(
            label.category or named.category, named.type, named.modifiers, named.region
        )
    if label.type is None:
        return SegmentCodes(
            label.category or ANATOMICAL_STRUCTURE, ANATOMICAL_STRUCTURE, is_known=False
        )
    meant = label.type.meaning.lower()
    modifiers = tuple(_MODIFIERS[w] for w in words if w in _MODIFIERS and w not in meant)
    category = label.category or (named.category if named else _category_of(label.type))
    region = named.region if named and category == ABNORMAL_STRUCTURE else None
    return SegmentCodes(category, label.type, modifiers, region)


def _words_of(name: str) -> list[str]:
    words = re.findall(r"[a-z]+\d+|[a-z]+|\d+", name.lower())
    return [_WORDS.get(word, word) for word in words]


def _by_name(words: list[str]) -> SegmentCodes | None:
    whole = _lookup(words)
    if whole is not None:
        return whole
    for abnormal, (value, meaning) in _ABNORMAL.items():
        parts = abnormal.split()
        if all(part in words for part in parts):
            rest = [word for word in words if word not in parts]
            organ = _lookup(rest) if rest else None
            plain = tuple(_MODIFIERS[word] for word in rest if word in _MODIFIERS)
            return SegmentCodes(
                ABNORMAL_STRUCTURE,
                CodedConcept(value, SCT, meaning),
                organ.modifiers if organ else plain,
                organ.type if organ else None,
            )
    return None


def _lookup(words: list[str]) -> SegmentCodes | None:
    """Anatomy or tissue of that name; words such as "left" may stand anywhere in it."""
    sides = [word for word in words if word in _MODIFIERS]
    core = [word for word in words if word not in _MODIFIERS]
    # "left ventricle" has a code of its own, so the longest form is tried first.
    for name in (" ".join(words), " ".join([*core, *sides]), " ".join([*sides, *core])):
        found = _entry(_NAMES.get(name, name))
        if found is not None:
            return found
    found = _entry(_NAMES.get(" ".join(core), " ".join(core)))
    if found is None:
        return None
    modifiers = tuple(_MODIFIERS[side] for side in sides)
    return SegmentCodes(found.category, found.type, modifiers)


def _entry(name: str) -> SegmentCodes | None:
    words = name.split()
    if len(words) == 2 and words[0] == "rib" and words[1].isdigit() and 0 < int(words[1]) <= 12:
        value, meaning = _RIBS[int(words[1]) - 1]
        return SegmentCodes(ANATOMICAL_STRUCTURE, CodedConcept(value, SCT, meaning))
    if "vertebra" in words and len(words) == 2:
        level = words[1 - words.index("vertebra")]
        if level in _VERTEBRAE:
            concept = CodedConcept(_VERTEBRAE[level], SCT, f"{level.upper()} vertebra")
            return SegmentCodes(ANATOMICAL_STRUCTURE, concept)
    for table, category in ((_ANATOMY, ANATOMICAL_STRUCTURE), (_TISSUES, TISSUE)):
        if name in table:
            return SegmentCodes(category, CodedConcept(table[name][0], SCT, table[name][1]))
    return None


def _category_of(concept: CodedConcept) -> CodedConcept:
    """Category of a type that was given without one."""
    if concept.value in {value for value, _ in _ABNORMAL.values()}:
        return ABNORMAL_STRUCTURE
    if concept.value in {value for value, _ in _TISSUES.values()}:
        return TISSUE
    return ANATOMICAL_STRUCTURE
