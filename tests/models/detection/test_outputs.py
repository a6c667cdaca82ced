import torch

from medseg.models.detection.outputs import FlatOutputs, flat, nested


def test_outputs_come_back_from_a_row_of_tensors_in_any_order():
    outputs = {"masks": torch.ones(1), "scores": [torch.full((1,), float(n)) for n in range(12)]}

    named = flat(outputs)
    found = nested(dict(reversed(named.items())))

    assert len(named) == 13
    assert sorted(found) == ["masks", "scores"]
    assert [float(part) for part in found["scores"]] == list(range(12))


def test_a_list_of_one_level_stays_a_list():
    assert isinstance(nested(flat({"scores": [torch.ones(1)]}))["scores"], list)


def test_the_row_has_the_order_of_the_names():
    class Network(torch.nn.Module):
        def forward(self, image):
            return {"first": [image, image + 1], "second": image + 2}

    row = FlatOutputs(Network())(torch.zeros(1))

    assert [float(part) for part in row] == [0, 1, 2]
    assert list(flat(Network()(torch.zeros(1)))) == ["first_level_0", "first_level_1", "second"]
