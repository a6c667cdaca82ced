import pytest
import torch

from medseg.inference import precision
from medseg.inference.precision import autocast, best_device, best_precision, bf16_speedup


def set_cpu(
    monkeypatch: pytest.MonkeyPatch, *, avx512_bf16: bool, amx: bool, speedup: float
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(precision, "bf16_speedup", lambda: speedup)


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
    ("avx512_bf16", "amx", "speedup", "wanted"),
    [
        (True, False, 2.0, "bf16-mixed"),
        (False, True, 2.0, "bf16-mixed"),
        (True, False, 0.6, "32-true"),
        (False, False, 2.0, "32-true"),
    ],
)
def test_cpus_compute_in_bf16_only_where_it_is_faster(
    monkeypatch, avx512_bf16, amx, speedup, wanted
):
    set_cpu(monkeypatch, avx512_bf16=avx512_bf16, amx=amx, speedup=speedup)

    assert best_precision("cpu") == wanted


def test_a_format_is_as_fast_as_it_is_timed(monkeypatch):
    products = {torch.float32: 4.0, torch.bfloat16: 1.0}
    clock = [0.0]

    def product(matrix, _):
        clock[0] += products[matrix.dtype]

    monkeypatch.setattr(precision.torch, "mm", product)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])

    assert bf16_speedup.__wrapped__() == 4.0


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32), ("16-mixed", torch.float16)],
)
def test_networks_compute_in_the_given_precision(kind, wanted):
    with autocast("cpu", kind):
        result = torch.nn.Linear(3, 2)(torch.ones(1, 3))

    assert result.dtype == wanted
