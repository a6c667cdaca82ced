import pytest
import torch

from medseg.inference.precision import autocast, best_device, best_precision


def set_cpu(monkeypatch: pytest.MonkeyPatch, *, avx512_bf16: bool, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


def test_a_gpu_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device() == "cuda"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert best_device() == "cpu"


@pytest.mark.parametrize(("is_native", "wanted"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_gpus_without_native_bf16_compute_in_fp16(monkeypatch, is_native, wanted):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: is_native)

    assert best_precision("cuda") == best_precision("cuda:1") == wanted


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "wanted"),
    [
        (True, False, "bf16-mixed"),
        (False, True, "bf16-mixed"),
        (False, False, "32-true"),
    ],
)
def test_cpus_compute_in_bf16_only_where_they_multiply_it(monkeypatch, avx512_bf16, amx, wanted):
    set_cpu(monkeypatch, avx512_bf16=avx512_bf16, amx=amx)

    assert best_precision("cpu") == wanted


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32), ("16-mixed", torch.float16)],
)
def test_networks_compute_in_the_given_precision(precision, wanted):
    with autocast("cpu", precision):
        result = torch.nn.Linear(3, 2)(torch.ones(1, 3))

    assert result.dtype == wanted
