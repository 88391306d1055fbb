"""What is wrong with detections, and what it costs: the error kinds of TIDE."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from boxwright.study.comparison.matching import Flags, Ints, Matches

__all__ = ["KINDS", "Errors", "error_kinds"]

KINDS: Final = ("classification", "localisation", "both", "duplicate", "background", "missed")
_RIGHT: Final = 0.5  # overlap from which a detection may be right
_NEAR: Final = 0.1  # overlap up to which it lies on background


@dataclass(frozen=True)
class Errors:
    """The errors of one run by kind.

    Attributes:
        counts: number of wrong detections, and of missed objects.
        cost: AP50 that would be gained without them, None where there is no object.
    """

    counts: dict[str, int]
    cost: dict[str, float | None]


def error_kinds(matches: Matches) -> Errors:
    """Sort errors into the kinds of TIDE and put every kind right to see what it costs.

    Bolya et al. 2020, arXiv:2008.08115. A detection that found nothing is, by its largest overlap with an object, the
    first that fits of: localisation (its own class, from 0.1 to 0.5), classification (another class, at least 0.5),
    duplicate (its own class, at least 0.5, the object being found already), background (none above 0.1), both (the
    rest). An object that nothing found is missed, unless a localisation or classification error points to it. Regions
    to ignore, and detections on them, are neither right nor wrong.

    Put right: of the localisation and classification errors that point to one object, the best finds it, if nothing
    has yet. All other wrong detections are taken away, and so are missed objects. Counts and costs are those of the
    authors' tool, which leaves out images without objects.
    """
    half = replace(matches, found=matches.found[:1], ignored=matches.ignored[:1])
    kinds = _kinds(half)
    missed = _missed(half, kinds)
    base = _ap(half)
    pointed = np.where(kinds["localisation"], half.own, np.where(kinds["classification"], half.other, -1))
    first = _first(half, pointed)
    fixed = {
        **{kind: _found(half, kinds[kind], first, pointed) for kind in ("classification", "localisation")},
        **{kind: _kept(half, ~kinds[kind]) for kind in ("both", "duplicate", "background")},
        "missed": _without_objects(half, missed),
    }
    return Errors(
        {**{kind: int(kinds[kind].sum()) for kind in KINDS[:-1]}, "missed": int(missed.sum())},
        {kind: _gain(_ap(fixed[kind]), base) for kind in KINDS},
    )


def _kinds(matches: Matches) -> dict[str, Flags]:
    """Which detections (D,) are an error of each kind."""
    left = (matches.found[0] < 0) & ~matches.ignored[0]
    own, other = matches.own_iou, matches.other_iou
    tests = {
        "localisation": (own >= _NEAR) & (own < _RIGHT),
        "classification": other >= _RIGHT,
        "duplicate": own >= _RIGHT,
        "background": np.maximum(own, other) <= _NEAR,
        "both": np.ones(len(own), bool),
    }
    kinds = {}
    for kind, fits in tests.items():
        kinds[kind] = left & fits
        left = left & ~fits
    return kinds


def _missed(matches: Matches, kinds: dict[str, Flags]) -> Flags:
    """Which objects (G,) nothing found or points to."""
    missed = ~matches.truth.crowd.copy()
    missed[matches.found[0][matches.found[0] >= 0]] = False
    missed[matches.own[kinds["localisation"]]] = False
    missed[matches.other[kinds["classification"]]] = False
    return missed


def _first(matches: Matches, pointed: Ints) -> Flags:
    """Which detections (D,) are the best of those that point to an object that nothing has found."""
    free = np.ones(len(matches.truth.image), bool)
    free[matches.found[0][matches.found[0] >= 0]] = False
    rows = np.flatnonzero(pointed >= 0)
    rows = rows[free[pointed[rows]]]
    _, best = np.unique(pointed[rows], return_index=True)  # detections come by falling score
    first = np.zeros(len(matches), bool)
    first[rows[best]] = True
    return first


def _found(matches: Matches, wrong: Flags, first: Flags, pointed: Ints) -> Matches:
    """Let the first of some wrong detections find the objects that they point to; the others are taken away."""
    found, label = matches.found[0].copy(), matches.label.copy()
    rows = np.flatnonzero(wrong & first)
    found[rows] = pointed[rows]
    label[rows] = matches.truth.label[pointed[rows]]
    return _kept(replace(matches, found=found[None], label=label), ~wrong | first)


def _kept(matches: Matches, keep: Flags) -> Matches:
    return replace(
        matches,
        found=matches.found[:, keep],
        ignored=matches.ignored[:, keep],
        **{
            name: getattr(matches, name)[keep]
            for name in ("image", "label", "score", "box", "own", "own_iou", "other", "other_iou")
        },
    )


def _without_objects(matches: Matches, gone: Flags) -> Matches:
    truth, keep = matches.truth, ~gone
    kept = {name: getattr(truth, name)[keep] for name in ("image", "label", "box", "crowd")}
    return replace(matches, truth=replace(truth, **kept))


def _ap(matches: Matches) -> float | None:
    """AP over the classes that have objects; None where none has."""
    values = matches.average_precision()[0, 0].numpy()
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _gain(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else max(after - before, 0.0)
