"""What the README shows works as it is written."""

import torch

from pages import DOCS, blocks


def test_python():
    images = [torch.rand(3, 48, 64) for _ in range(2)]
    targets = [
        {"boxes": torch.tensor([[4.0, 4.0, 30.0, 40.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    names = {"loader": [(images, targets)]}
    for block in blocks(DOCS.parent / "README.md", "python"):
        exec(block, names)
    assert names["losses"].keys() == {"classification", "box"}
    assert [detection.keys() for detection in names["detections"]] == [{"boxes", "scores", "labels"}] * 2
