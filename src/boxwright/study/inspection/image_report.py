"""One image: its objects, what every assigner gives them and why, scores and losses as maps."""

from collections.abc import Sequence
from typing import Any

import torch

from boxwright.study.inspection.assigner_choices import Choice
from boxwright.study.inspection.explain import Explanation, explain
from boxwright.study.inspection.heat_maps import grids, heat_map, score_maps
from boxwright.study.inspection.inputs import InputBatch
from boxwright.study.inspection.loss_shares import loss_shares, with_assigner
from boxwright.study.inspection.network import Network, Outputs
from boxwright.study.inspection.tally import level_of

__all__ = ["image_report"]


def image_report(
    batch: InputBatch, choices: Sequence[Choice], network: Network | None, outputs: Sequence[Outputs]
) -> dict[str, Any]:
    """Describe a batch of one image, all but its picture.

    Args:
        batch: one image.
        choices: the assigners.
        network: the run's; None before any training.
        outputs: what each stage of the network says about the image.

    Returns:
        `objects`; `crowd`; `grids` of the levels; `priors`, level and box of every prior that is ever positive; for
        each of the `assigners` the explanations of its `steps` and, with a network, the `loss` of its usual step;
        `scores` of each stage.
    """
    [frame] = batch.frames
    labels, crowd = frame.labels[~frame.crowd], frame.boxes[frame.crowd]
    assigners = []
    used: set[int] = set()
    for choice in choices:
        steps = [explain(step.assigner, batch, choice.predictions(outputs)) for step in choice.steps]
        used |= {match.prior for objects in steps for object_ in objects for match in object_.matches}
        entry: dict[str, Any] = {"steps": [[_written(object_) for object_ in objects] for objects in steps]}
        if network is not None:
            entry["loss"] = _loss(batch, choice, network, outputs)
        assigners.append(entry)
    boxes = [[round(side, 1) for side in box] for box in frame.boxes[~frame.crowd].tolist()]
    level = level_of(batch.priors)
    return {
        "width": frame.size[1],
        "height": frame.size[0],
        "objects": [{"class": label, "box": box} for box, label in zip(boxes, labels.tolist(), strict=True)],
        "crowd": crowd.tolist(),
        "grids": grids(batch.priors),
        "priors": {
            str(prior): [int(level[prior]), *(round(side, 1) for side in batch.priors.boxes[prior].tolist())]
            for prior in sorted(used)
        },
        "assigners": assigners,
        "scores": [score_maps(output.predictions, batch.priors, labels) for output in outputs],
    }


def _written(explanation: Explanation) -> dict[str, Any]:
    """An explanation in few characters: `priors` holds each prior with its numbers, `notes` the notes of some."""
    notes = {str(match.prior): match.note for match in explanation.matches if match.note}
    priors = [[match.prior, *match.numbers] for match in explanation.matches]
    return {"why": explanation.sentence, "priors": priors} | ({"notes": notes} if notes else {})


def _loss(batch: InputBatch, choice: Choice, network: Network, outputs: Sequence[Outputs]) -> dict[str, Any]:
    """Divide the criterion's losses, with the assigner in place of its own, among positives and background.

    Returns:
        `terms` by name; `shared`, those that are sums over priors; `positives`, by prior its share of each of them;
        `background`, the shares of all priors that are not positive; `map` of the sums of the shares.
    """
    criterion = with_assigner(network.criterion, choice.assigner)
    shares, terms = loss_shares(criterion, outputs[choice.stage or 0].predictions, batch.priors, batch.targets)
    positive = choice.assigner(batch.priors, batch.targets, choice.predictions(outputs)).positive[0]
    table = torch.stack([share[0] for share in shares.values()], dim=1) if shares else torch.zeros(len(positive), 0)
    index = positive.nonzero()[:, 0].tolist()
    return {
        "terms": {name: _short(value) for name, value in terms.items()},
        "shared": list(shares),
        "positives": {str(prior): [_short(share) for share in table[prior].tolist()] for prior in index},
        "background": [_short(share) for share in table[~positive].sum(0).tolist()],
        "map": heat_map(table.sum(1).clamp(min=0), batch.priors, total=True),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
