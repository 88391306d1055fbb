"""Random grids of predictions with objects, for the grid losses and their loops."""

import random

import torch
from torch import Tensor

from grid_losses_in_loops import Object, Objects


class Scene:
    """An output (B, A, 5 + C, H, W) and objects, some in the same cell; images may be empty, C may be 1."""

    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        torch.manual_seed(seed)
        self.images, self.anchors, self.classes = draw.randint(1, 3), draw.randint(1, 5), draw.randint(1, 4)
        self.height, self.width = draw.randint(1, 6), draw.randint(1, 6)
        self.objects: Objects = [
            [self.draw_object() for _ in range(draw.choice((0, 1, 4, 12)))] for _ in range(self.images)
        ]
        for image in self.objects:
            if image and draw.random() < 0.5:
                x, y, w, h, _ = image[0]
                image.append((x, y, w * 0.98, h * 0.98, draw.randrange(self.classes)))
        self.cells = [(draw.uniform(0.3, 4.0), draw.uniform(0.3, 4.0)) for _ in range(self.anchors)]

    def draw_object(self) -> Object:
        """One object anywhere, of any class."""
        x, y, w, h = (self.draw.uniform(*ends) for ends in ((0.02, 0.98), (0.02, 0.98), (0.05, 0.8), (0.05, 0.8)))
        return x, y, w, h, self.draw.randrange(self.classes)

    def output(self, anchors: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        size = size or (self.height, self.width)
        return torch.randn(self.images, anchors or self.anchors, 5 + self.classes, *size).requires_grad_()

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, labels, valid, with an entry of padding at the end."""
        most = max(map(len, self.objects)) + 1
        boxes, labels = torch.rand(self.images, most, 4), torch.zeros(self.images, most, dtype=torch.int64)
        valid = torch.zeros(self.images, most, dtype=torch.bool)
        for b, image in enumerate(self.objects):
            for g, obj in enumerate(image):
                boxes[b, g], labels[b, g], valid[b, g] = torch.tensor(obj[:4]), obj[4], True
        return boxes, labels, valid

    def scales(self) -> dict[str, float]:
        names = ("object_scale", "noobject_scale", "class_scale", "coord_scale")
        return {name: self.draw.uniform(0.3, 5.0) for name in names} | {"thresh": self.draw.uniform(0.05, 0.7)}
