"""The ranking losses in float64, one positive after the other, written from the formulas of their papers."""

import torch
from hypothesis import strategies as st
from torch import Tensor

# (score, what it is, quality) of a few entries: -1 ignored, 0 background, 1 positive; with ties and extremes
entries = st.lists(
    st.tuples(
        st.sampled_from([-1e4, -3.0, -0.5, 0.0, 0.25, 1.0, 1e4]),
        st.sampled_from([-1, 0, 0, 1]),
        st.sampled_from([0.25, 0.5, 0.5, 1.0]),
    )
)
deltas = st.sampled_from([0.0, 0.5, 1.0])


def tensors(listed: list[tuple[float, int, float]]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N,), targets (N,) in {1, 0, -1} and qualities (N,) of `entries`, the logits asking for a gradient."""
    columns = torch.tensor(listed, dtype=torch.float64).reshape(-1, 3).T
    return columns[0].clone().requires_grad_(), columns[1].long(), columns[2].clone()


def step(difference: Tensor, delta: float) -> Tensor:
    """Soft step; the step itself, which counts a tie, where δ is 0."""
    return (difference / (2 * delta) + 0.5).clamp(0, 1) if delta else (difference >= 0).double()


def ap(logits: Tensor, positive: Tensor, negative: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Loss and update (N,) of AP-Loss for logits (N,) and masks (N,)."""
    update, best, losses = torch.zeros_like(logits), torch.zeros(()).double(), [torch.zeros(()).double()] * 0
    for place in sorted(positive.nonzero().view(-1).tolist(), key=lambda place: logits[place].item()):
        above = step(logits - logits[place], delta)
        rank = above[positive].sum() + (0.5 if delta else 0) + above[negative].sum()
        precision = 1 - above[negative].sum() / rank
        best = torch.maximum(best, precision)
        losses.append(1 - best)
        update[place] -= 1 - best
        update += above * negative / rank * ((1 - best) / (1 - precision) if best > precision else 1)
    count = max(len(losses), 1)
    return torch.stack([*losses, logits.new_zeros(())]).sum() / count, update / count


def rank_sort(
    logits: Tensor, positive: Tensor, negative: Tensor, quality: Tensor, delta: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ranking and sorting loss, and the update (N,) of each, for logits and qualities (N,) and masks (N,)."""
    losses, updates = torch.zeros(2).double(), torch.zeros(2, len(logits)).double()
    places = positive.nonzero().view(-1).tolist()
    for place in places:
        above = step(logits - logits[place], delta)
        false, among = above * negative, above * positive
        error = false.sum() / (false.sum() + among.sum())
        losses[0] += error
        if false.sum() > 0:
            updates[0] += error * false / false.sum()
            updates[0, place] -= error
        # what the order by quality would leave above it
        sorted_above = among * (quality >= quality[place])
        misplaced = among - sorted_above
        error = (among * (1 - quality)).sum() / among.sum() - (sorted_above * (1 - quality)).sum() / sorted_above.sum()
        losses[1] += error
        if misplaced.sum() > 0:
            updates[1] += error * misplaced / misplaced.sum()
            updates[1, place] -= error
    count = max(len(places), 1)
    return losses[0] / count, losses[1] / count, updates[0] / count, updates[1] / count


def alrp(
    logits: Tensor, positive: Tensor, negative: Tensor, box_losses: Tensor, delta: float, tau: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classification and localisation loss, the update (N,) of the logits and the gradient (N,) of the box losses."""
    classification = localization = torch.zeros(()).double()
    update, weight = torch.zeros_like(logits), torch.zeros_like(logits)
    places = positive.nonzero().view(-1).tolist()
    for place in places:
        above = step(logits - logits[place], delta)
        above[place] = 0
        false = (above * negative).sum()
        rank = 1 + (above * positive).sum() + false
        classification = classification + false / rank
        if false > 1e-5:
            error = ((above * positive * box_losses).sum() / (2 * (1 - tau)) + false) / rank
            update[place] -= error
            update += error * above * negative / false
        at_least = step(logits - logits[place], 0.0) * positive
        localization = localization + (at_least * box_losses).sum() / rank
        weight += at_least / rank
    count = max(len(places), 1)
    return classification / count, localization / count, update / count, weight / count
