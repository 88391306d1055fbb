"""What a head says about every prior."""

from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from boxwright.structures.base import TensorStruct


@dataclass(frozen=True, eq=False, slots=True)
class Predictions(TensorStruct):
    """Raw outputs of a head for B images and L priors.

    Attributes:
        logits: (B, L, C) class logits.
        params: (B, L, D) box parameters, undecoded: deltas, distances or logits of a distribution.
        extras: other outputs by name, each (B, L, …): `objectness`, `quality`, ….
        boxes: (B, L, 4) xyxy in pixels, decoded from `params`; None until a coder has filled it in.
    """

    logits: Tensor
    params: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    boxes: Tensor | None = None

    def with_boxes(self, boxes: Tensor) -> Self:
        """Return a copy that holds decoded boxes."""
        return replace(self, boxes=boxes)

    def scores(self) -> Tensor:
        """Return the score of every class (B, L, C): σ(logit), times σ(`extras["quality"]`) where a head gives it.

        The product ranks a box by class and by how well it is placed (Tian et al. 2019, arXiv:1904.01355).
        """
        scores = self.logits.float().sigmoid()
        quality = self.extras.get("quality")
        return scores if quality is None else scores * quality.float().sigmoid()

    def detach(self) -> Self:
        """Return a copy that carries no gradient (what an assigner sees)."""
        return self.map(Tensor.detach)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.logits)

    def __getitem__(self, images: slice) -> Self:
        """Return the predictions of a slice of images."""
        return self.map(lambda tensor: tensor[images])
