"""Errors say where, what and the remedy, alone and together."""

import pickle

import pytest

from medseg.core.errors import InputError, MedsegError, raise_all


def _errors(remedies, codes):
    return [
        InputError(f"file {n}", "is odd", remedy, code=code)
        for n, (remedy, code) in enumerate(zip(remedies, codes, strict=True))
    ]


def test_errors_with_one_remedy_are_listed_and_end_with_it():
    with pytest.raises(InputError) as caught:
        raise_all(_errors(["send again", "send again"], ["E_A", "E_A"]), where="x", what="files")

    assert caught.value.remedy == "send again"
    assert caught.value.code == "E_A"
    assert str(caught.value) == "x: 2 files:\n  file 0: is odd\n  file 1: is odd; send again"


def test_errors_with_different_remedies_keep_their_own():
    with pytest.raises(InputError, match="file 0: is odd; mend") as caught:
        raise_all(_errors(["mend", "send"], ["E_A", "E_B"]), where="x", what="files")

    assert caught.value.remedy == "each line says what to do"
    assert caught.value.code == "E_INPUT"


def test_a_single_error_is_raised_as_it_is():
    (error,) = _errors(["mend"], ["E_A"])

    with pytest.raises(InputError) as caught:
        raise_all([error], where="x", what="files")

    assert caught.value is error


def test_many_errors_are_counted_rather_than_listed():
    with pytest.raises(InputError, match="and 12 more"):
        raise_all(_errors(["a"] * 20, ["E_A"] * 20), where="x", what="files")


def test_names_of_files_cannot_steer_the_terminal():
    error = InputError("a\n\x1b[31mb\u202e.dcm", "c\x9b2J\r and\n  Müller 肝\tis odd", "mend")

    assert str(error) == ("a\\n\\x1b[31mb\\u202e.dcm: c\\x9b2J\\r and\n  Müller 肝\tis odd; mend")
    assert error.where == "a\n\x1b[31mb\u202e.dcm"


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(MedsegError("here", "is odd", "mend", code="E_A")))

    assert (error.where, error.what, error.remedy, error.code) == ("here", "is odd", "mend", "E_A")
