"""The images of a report: which to show, and what is drawn on them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from boxwright.data.records import ImageRecord
from boxwright.study.inspection.assigner_choices import Choice
from boxwright.study.inspection.image_report import image_report
from boxwright.study.inspection.inputs import Inputs, PriorGenerator, priors_of
from boxwright.study.inspection.network import Network, Outputs, pixels_of
from boxwright.study.inspection.tally import Tally
from boxwright.study.pictures import picture

__all__ = ["gallery", "pick"]


def pick(inputs: Inputs, tallies: dict[str, Tally], count: int) -> dict[int, str]:
    """Choose images worth looking at: those that lead some list, in turn, then others spread over the data set.

    Args:
        inputs: the data set.
        tallies: what each assigner does, by its name.
        count: how many images.

    Returns:
        Why an image was chosen, by its index.
    """
    lists: dict[str, Any] = {}
    for name, tally in tallies.items():
        lists[f"most objects without positives: {name}"] = tally.positives.sum(1) == 0
    lists["most boxes that look like duplicates"] = inputs.crowding >= 0.8
    for name, tally in tallies.items():
        lists[f"most priors lost to another object: {name}"] = tally.lost
    width, height = (inputs.boxes[:, 2:] - inputs.boxes[:, :2]).T
    lists["most objects under 16 px"] = np.sqrt(width * height) < 16
    counts = {why: np.bincount(inputs.image, values, minlength=len(inputs.frames)) for why, values in lists.items()}
    orders = {why: iter([int(i) for i in np.argsort(-some, kind="stable") if some[i]]) for why, some in counts.items()}
    chosen: dict[int, str] = {}
    while orders and len(chosen) < count:
        for why in list(orders):
            image = next((i for i in orders[why] if i not in chosen), None)
            if image is None:
                del orders[why]
            elif len(chosen) < count:
                chosen[image] = why
    for image in np.linspace(0, len(inputs.frames) - 1, count).round().astype(int).tolist():
        if len(chosen) < min(count, len(inputs.frames)):
            chosen.setdefault(image, "one of the others")
    return chosen


def gallery(
    inputs: Inputs,
    records: Sequence[ImageRecord],
    prior_generator: PriorGenerator,
    choices: Sequence[Choice],
    chosen: dict[int, str],
    network: Network | None = None,
) -> list[dict[str, Any]]:
    """Describe chosen images: picture, objects, and for each step of each assigner its positives with their reasons.

    With a network also heat maps of its scores in all stages, and what every prior contributes to the losses. Without
    one an image that cannot be read is described without its picture, and says why.

    Raises:
        DataError: an image that a network is to look at cannot be read.
    """
    frames = [inputs.frames[index] for index in chosen]
    batches = [inputs.batch([frame], priors_of(prior_generator, frame.canvas)) for frame in frames]
    outputs: Iterable[list[Outputs]] = ([] for _ in batches)
    if network is not None:
        pixels = pixels_of(records, batches, network.recipe.data.size)
        outputs = ([stage.predict(image) for stage in network.stages] for _, image in pixels)
    return [
        {"name": records[frame.record].path.name, "why": why}
        | image_report(batch, choices, network, output)
        | picture(records[frame.record])
        for frame, why, batch, output in zip(frames, chosen.values(), batches, outputs, strict=True)
    ]
