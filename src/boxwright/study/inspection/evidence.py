"""What a run's network says for and against the annotations, gathered batch by batch."""

from dataclasses import dataclass
from typing import Self

import torch

from boxwright.models.postprocess import Postprocess
from boxwright.structures import Predictions
from boxwright.study.inspection.inputs import InputBatch, Inputs
from boxwright.study.inspection.network import Network
from boxwright.study.inspection.sides import DistributionCoder, Sides
from boxwright.study.inspection.suspects import Suspects
from boxwright.study.inspection.unlabelled import Unlabelled

__all__ = ["Evidence"]


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """The sides of all objects as the trained network sees them, and its detections that no annotation explains."""

    coder: DistributionCoder
    postprocess: Postprocess
    sides: Sides
    unlabelled: list[Unlabelled]

    @classmethod
    def empty(cls, network: Network, objects: int) -> Self | None:
        """Return what `add` fills in, for N objects; None where the network has no distributional boxes."""
        if network.coder is None:
            return None
        return cls(network.coder, network.after.detector.postprocess, Sides.empty(objects, network.coder), [])

    def add(self, batch: InputBatch, predictions: Predictions) -> None:
        """Take in what the network predicts for a batch, with decoded boxes."""
        self.sides.add(batch, predictions, self.coder)
        sizes = torch.tensor([frame.size for frame in batch.frames])
        detections = self.postprocess(predictions, batch.priors, self.coder, sizes)
        self.unlabelled.extend(Unlabelled.of(batch, detections))

    def weighed(self, inputs: Inputs) -> tuple[Suspects, Unlabelled]:
        """Return the objects of the whole data set and what is not annotated, the most suspicious of each first."""
        suspects = Suspects.of(inputs, self.sides, self.postprocess.iou_threshold)
        return suspects, Unlabelled.join(self.unlabelled)
