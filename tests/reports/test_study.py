from pathlib import Path

import pytest

from medseg.core.errors import ConfigError
from medseg.reports.study import model_names


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/runs/unet", "/runs/otsu"], ["unet", "otsu"]),
        (["/runs/unet/predictions", "/runs/otsu/predictions"], ["unet", "otsu"]),
        (["/runs/a/fold_0/predictions", "/runs/b/fold_0/predictions"], ["a", "b"]),
        (["/runs/a/fold_0/predictions", "/runs/a/fold_1/predictions"], ["fold_0", "fold_1"]),
        (["/x/a/p", "/y/a/p", "/y/b/p"], ["x_a", "y_a", "y_b"]),
        (["/p", "/x/p"], ["p", "x_p"]),
        (["/only/predictions"], ["predictions"]),
    ],
)
def test_a_model_is_called_what_tells_its_folder_from_the_others(folders, names):
    found = model_names([Path(folder) for folder in folders])

    assert [name.strip("_") for name in found] == names


def test_a_folder_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match=r"predictions: names /x/a twice; name each folder once"):
        model_names([Path("/x/a"), Path("/x/b/../a")])
