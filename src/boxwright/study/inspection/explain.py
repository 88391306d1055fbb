"""Why each prior of an image went to its object, and why an object got none."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwright.structures import Assignment, Predictions
from boxwright.study.inspection.assigner_rules import Rule, rule_of
from boxwright.study.inspection.inputs import InputBatch
from boxwright.study.inspection.tally import alone

__all__ = ["Explanation", "Match", "explain"]


@dataclass(frozen=True, slots=True)
class Match:
    """One positive prior: its index, the numbers that fill its object's `sentence`, and a note (mostly empty)."""

    prior: int
    numbers: tuple[float, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """One object: its positive priors and the sentence that says why, or why it has none."""

    matches: tuple[Match, ...]
    sentence: str

    def why(self, match: Match) -> str:
        """Return why one prior is positive, in words; the page's script writes the same."""
        text = self.sentence.format(*(f"{number:g}" for number in match.numbers))
        return f"{text}; {match.note}" if match.note else text


def explain(assigner: Any, batch: InputBatch, predictions: Predictions | None = None) -> list[Explanation]:
    """Explain the assignment of a batch of one image, object by object (crowd regions left out).

    Args:
        assigner: any.
        batch: one image.
        predictions: what the assigner looks at, where it looks at any.
    """
    assignment: Assignment = assigner(batch.priors, batch.targets, predictions)
    number = (batch.rows[0] >= 0).nonzero()[:, 0]
    if not len(number):
        return []
    wanted = alone(assigner, batch, torch.zeros_like(number), number, predictions)
    owner = torch.full_like(assignment.gt_index[0], -1)
    for index, entry in enumerate(number.tolist()):
        owner[assignment.gt_index[0] == entry] = index
    rule = rule_of(assigner, batch, number, predictions)
    explanations = []
    for index in range(len(number)):
        priors = (owner == index).nonzero()[:, 0].tolist()
        matches = tuple(
            Match(prior, _short(rule.numbers(index, prior)), _note(rule, index, prior, wanted)) for prior in priors
        )
        sentence = rule.sentence(index) if priors else _why_none(rule, index, wanted, owner)
        explanations.append(Explanation(matches, sentence))
    return explanations


def _short(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """Three significant digits of each."""
    return tuple(float(f"{number:.3g}") for number in numbers)


def _note(rule: Rule, index: int, prior: int, wanted: Tensor) -> str:
    """Say what is special about a prior, and name the other objects that would have had it."""
    notes = [rule.note(index, prior)]
    others = [other for other in wanted[:, prior].nonzero()[:, 0].tolist() if other != index]
    if others:
        named = ", ".join(f"object {other + 1} ({rule.stake(other, prior)})" for other in others)
        notes.append(f"won against {named}")
    return "; ".join(note for note in notes if note)


def _why_none(rule: Rule, index: int, wanted: Tensor, owner: Tensor) -> str:
    priors = wanted[index].nonzero()[:, 0]
    if not len(priors):
        return rule.nothing(index)
    winners, counts = owner[priors].unique(return_counts=True)
    names = ", ".join(
        f"object {winner + 1} ({count})" if winner >= 0 else f"nobody ({count})"
        for winner, count in zip(winners.tolist(), counts.tolist(), strict=True)
    )
    return f"all {len(priors)} priors that it would get alone went to {names}"
