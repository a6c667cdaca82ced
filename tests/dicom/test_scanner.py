import phantoms
from pydicom import dcmread

from medseg.dicom.ct_series import write_ct_series
from medseg.dicom.scanner import scanner_name


def test_the_scanner_is_make_and_model_and_nothing_that_tells_the_place(tmp_path):
    path = write_ct_series(phantoms.sphere(), tmp_path, case_key="case", seed=0)[0]
    header = dcmread(path)
    header.Manufacturer, header.ManufacturerModelName = "ACME  Corp", "Scan 3"
    header.StationName, header.DeviceSerialNumber = "WARD7", "1234"
    header.save_as(path)

    assert scanner_name(path) == "ACME Corp Scan 3"


def test_a_file_that_is_no_dicom_has_no_scanner(tmp_path):
    (tmp_path / "note").write_text("hello")

    assert scanner_name(tmp_path / "note") == ""
    assert scanner_name(tmp_path / "absent") == ""
