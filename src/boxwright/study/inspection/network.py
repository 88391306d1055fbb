"""What a network says about the images of a data set, before and after its training."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from boxwright.criteria import DenseCriterion, PhasedCriterion, set_epoch
from boxwright.data.dataset import DetectionDataset, Sample, collate
from boxwright.data.index import DataIndex
from boxwright.data.loader import begin_worker, worker_errors
from boxwright.data.records import ImageRecord
from boxwright.data.transforms import evaluation_transform
from boxwright.engine.load import load_with_recipe
from boxwright.engine.loop import seed_everything
from boxwright.errors import RecipeError, RunError
from boxwright.models import DenseDetector
from boxwright.recipes import Recipe, build_criterion, build_detector
from boxwright.recipes.grid import GridRecipe
from boxwright.structures import Predictions
from boxwright.study.inspection.inputs import InputBatch
from boxwright.study.inspection.sides import DistributionCoder

__all__ = ["Network", "Outputs", "Stage", "pixels_of"]


class Outputs(NamedTuple):
    """What a network says about B images.

    Attributes:
        predictions: everything that a criterion reads, with decoded boxes.
        for_assigner: what an assigner looks at, and no more: the guide's predictions where the network has one.
    """

    predictions: Predictions
    for_assigner: Predictions


@dataclass(frozen=True, eq=False, slots=True)
class Stage:
    """A detector at one moment of its training: `name` is "before training" or "after training"."""

    name: str
    detector: DenseDetector

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> Outputs:
        """Predict for images (B, 3, H, W); the answer is on the CPU.

        As in a training a guide predicts as well, but batch norms use the statistics that they have gathered.
        """
        detector = self.detector.eval()
        detector.training = True  # of this module alone: it asks the guide, its parts stay in evaluation mode
        predictions, priors = detector.predict(pixels.to(detector.mean.device))
        detector.eval()
        decode, extras = detector.criterion.coder.decode, predictions.extras
        predictions = predictions.with_boxes(decode(priors, predictions.params.float()))
        logits, boxes = predictions.logits, predictions.boxes
        if "guide_logits" in extras:
            logits, boxes = extras["guide_logits"], decode(priors, extras["guide_params"].float())
        kept = {name: extra for name, extra in extras.items() if name in ("background", "objectness")}
        for_assigner = Predictions(logits, logits[..., :0], kept, boxes).with_sigmoids()
        return Outputs(predictions.to("cpu"), for_assigner.to("cpu"))


@dataclass(frozen=True, eq=False, slots=True)
class Network:
    """A run's network in all its stages, and what it was trained with.

    Attributes:
        recipe: the run's.
        criterion: that of the last epochs.
        after: the trained detector.
        before: the detector as its training began; None where its weights cannot be had.
        missing: why there is no `before`.
    """

    recipe: Recipe
    criterion: DenseCriterion
    after: Stage
    before: Stage | None
    missing: str

    @classmethod
    def of_run(cls, source: str | Path, index: DataIndex, device: torch.device | str = "cpu") -> Self:
        """Load a run folder or weight file, and rebuild the initial weights from its recipe's seed.

        Args:
            source: as for `boxwright.engine.load`.
            index: the data set, whose split "train", where it has the run's classes, tells how often each occurs; some
                losses weigh classes by that.
            device: where to compute.

        Raises:
            RunError: the run cannot be loaded.
            RecipeError: its criterion has no assigner.
        """
        trained, recipe = load_with_recipe(source, device=device)
        if isinstance(recipe, GridRecipe):
            raise RecipeError(f"recipe {recipe.name}: its criterion has no assigner that could be looked at")
        same = "train" in index.splits and tuple(index.class_names) == trained.class_names
        criterion = build_criterion(recipe, index.class_counts("train") if same else None)
        criterion.load_state_dict(trained.criterion.state_dict())  # the running values of its losses
        set_epoch(criterion, recipe.schedule.epochs - 1)
        if isinstance(criterion, PhasedCriterion):
            criterion = criterion.then
        if not isinstance(criterion, DenseCriterion):
            raise RecipeError(f"recipe {recipe.name}: only detectors with one stage can be looked at with their run")
        before, missing = None, ""
        try:
            before = Stage("before training", initial_detector(recipe, trained.class_names).to(device))
        except RunError as error:
            missing = str(error)
        return cls(recipe, criterion, Stage("after training", trained), before, missing)

    @property
    def coder(self) -> DistributionCoder | None:
        """The coder, where it reads boxes from distributions."""
        coder = self.criterion.coder
        return coder if isinstance(coder, DistributionCoder) else None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that there are, the trained one first."""
        return (self.after,) if self.before is None else (self.after, self.before)


def initial_detector(recipe: Recipe, class_names: Sequence[str]) -> DenseDetector:
    """Build a detector with the weights that a training of a recipe starts from; torch's generators stay as they are.

    Raises:
        RunError: pretrained weights cannot be had.
    """
    with torch.random.fork_rng():
        seed_everything(recipe.train.seed)  # as `train` does
        return build_detector(recipe, class_names)


def pixels_of(
    records: Sequence[ImageRecord], batches: Iterable[InputBatch], size: int | tuple[int, int], workers: int = 0
) -> Iterator[tuple[InputBatch, Tensor]]:
    """Yield batches with their images (B, 3, H, W) uint8, as an evaluation sees them.

    Args:
        records: of all frames.
        batches: of `Inputs.batches`.
        size: the recipe's `data.size`.
        workers: processes that read images.

    Raises:
        DataError: an image cannot be read.
    """
    batches = list(batches)
    loader: DataLoader[Sample] = DataLoader(
        DetectionDataset(records, evaluation_transform(size)),
        batch_sampler=[[frame.record for frame in batch.frames] for batch in batches],
        collate_fn=partial(collate, square=size if isinstance(size, int) else None),
        num_workers=workers,
        worker_init_fn=begin_worker,
    )
    with worker_errors():
        for batch, loaded in zip(batches, loader, strict=True):
            yield batch, loaded.images
