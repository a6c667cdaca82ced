from medseg.cli.run_page import changed_options
from medseg.config.check import load_config


def test_options_that_differ_from_the_defaults_are_shown_with_their_values():
    cfg = load_config(
        "train", ["data.source.folder=/data", "optimizer.lr=0.25", "name=lr_${optimizer.lr}"]
    )

    changes = {name: (default, value) for name, default, value in changed_options(cfg)}

    assert changes["name"] == ("${data.name}", "lr_0.25")
    assert changes["optimizer.lr"][1] == "0.25"
    assert changes["data.source.folder"] == ("???", "/data")
    assert "seed" not in changes


def test_options_that_are_empty_or_missing_say_so():
    cfg = load_config("train", ["data=liver"])
    changes = {name: values for name, *values in changed_options(cfg)}

    assert changes["data.mirror_axes"] == ["null", '""']
    assert changes["data.num_folds"] == ["5", "not an option"]
