"""What a head says about every prior."""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from boxwright.structures.base import TensorStruct


@dataclass(frozen=True, eq=False, slots=True)
class Predictions(TensorStruct):
    """Raw outputs of a head for B images and L priors.

    Attributes:
        logits: (B, L, C) class logits.
        params: (B, L, D) box parameters, undecoded: deltas, distances or logits of a distribution.
        extras: other outputs by name, each (B, L, …): `objectness`, `quality`, …. With `background` (B, L, 1) the
            classes and background are one softmax; without it every class has a sigmoid of its own.
        boxes: (B, L, 4) xyxy in pixels, decoded from `params`; None until a coder has filled it in.
    """

    logits: Tensor
    params: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    boxes: Tensor | None = None

    def with_boxes(self, boxes: Tensor) -> Self:
        """Return a copy that holds decoded boxes."""
        return replace(self, boxes=boxes)

    def columns(self) -> Tensor:
        """Return the logits that a classification loss sees: (B, L, C), and background last where the head has it."""
        background = self.extras.get("background")
        return self.logits if background is None else torch.cat([self.logits, background], dim=-1)

    def scores(self) -> Tensor:
        """Return the score of every class (B, L, C): its probability, times σ(`extras["quality"]`) where given.

        The product ranks a box by class and by how well it is placed (Tian et al. 2019, arXiv:1904.01355).
        """
        if "background" in self.extras:
            scores = self.columns().float().softmax(-1)[..., :-1]
        else:
            scores = self.logits.float().sigmoid()
        quality = self.extras.get("quality")
        return scores if quality is None else scores * quality.float().sigmoid()

    def with_sigmoids(self) -> Self:
        """Return a copy in which σ(logit) is the probability of a class also where it comes from a softmax."""
        if "background" not in self.extras:
            return self
        log = self.columns().float().log_softmax(-1)[..., :-1]
        rest = torch.log1p(-log.exp().clamp(max=1 - 2**-24))
        extras = {name: extra for name, extra in self.extras.items() if name != "background"}
        return replace(self, logits=log - rest, extras=extras)

    def take(self, index: Tensor) -> Self:
        """Return what is said about the priors at `index` (B, S) of each image."""
        return self.map(lambda tensor: tensor.gather(1, index.unsqueeze(-1).expand(-1, -1, tensor.shape[-1])))

    def detach(self) -> Self:
        """Return a copy that carries no gradient (what an assigner sees)."""
        return self.map(Tensor.detach)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.logits)

    def __getitem__(self, images: slice) -> Self:
        """Return the predictions of a slice of images."""
        return self.map(lambda tensor: tensor[images])
