"""One convention for reduction, normaliser and weights."""

import pytest
import torch

from boxwright.losses.reduction import check_same_shape, reduce, upcast, weighted

LOSS = torch.tensor([[1.0, 2.0], [3.0, 6.0]])


def test_reductions() -> None:
    assert reduce(LOSS, "none") is LOSS
    assert reduce(LOSS, "sum") == 12
    assert reduce(LOSS, "mean") == 3
    assert reduce(LOSS, "mean", counted=torch.tensor(2)) == 6
    assert reduce(LOSS, "mean", normalizer=6, counted=2) == 2
    assert reduce(LOSS, "mean", normalizer=0) == reduce(LOSS, "mean", normalizer=torch.tensor(0)) == 12
    assert reduce(LOSS, "image").tolist() == [3, 9]
    assert reduce(LOSS, "image", normalizer=3).tolist() == [1, 3]
    assert reduce(LOSS[0], "image").tolist() == [1, 2]


@pytest.mark.parametrize("normalizer", [None, 0, 0.0, torch.tensor(0.0)])
def test_nothing_over_nothing_is_zero_and_connected(normalizer: float | None) -> None:
    loss = torch.zeros(0, 3, requires_grad=True)
    mean = reduce(loss * 2, "mean", normalizer=normalizer)
    mean.backward()
    assert mean == 0
    assert loss.grad is not None
    assert reduce(loss, "image").shape == (0,)


def test_a_normalizer_is_one_number_or_one_per_image() -> None:
    assert reduce(LOSS, "image", normalizer=torch.tensor([3.0, 0.0])).tolist() == [1, 9]
    for normalizer in (torch.ones(1), torch.ones(2)):
        with pytest.raises(ValueError, match=r"normalizer must be a single number, got one of shape \(.,\)"):
            reduce(LOSS, "mean", normalizer=normalizer)
    with pytest.raises(ValueError, match=r"a single number, got one of shape \(3,\)"):
        reduce(LOSS, "image", normalizer=torch.ones(3))
    with pytest.raises(ValueError, match=r"must not be negative, got -0\.5"):
        reduce(LOSS, "mean", normalizer=-0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_a_normalizer_changes_neither_dtype_nor_graph(dtype: torch.dtype) -> None:
    assert reduce(LOSS, "mean", normalizer=torch.tensor(3, dtype=dtype)).dtype == torch.float32
    normalizer = torch.tensor(3.0, requires_grad=True)
    assert not reduce(LOSS, "mean", normalizer=normalizer).requires_grad


def test_weights_broadcast_per_row_or_per_element() -> None:
    assert weighted(LOSS, torch.tensor([1.0, 0.0])).tolist() == [[1, 2], [0, 0]]
    assert weighted(LOSS, torch.tensor([[1.0, 0.0]])).tolist() == [[1, 0], [3, 0]]
    assert weighted(LOSS, None) is LOSS
    assert weighted(LOSS, torch.ones(2, dtype=torch.float64)).dtype == LOSS.dtype
    with pytest.raises(ValueError, match=r"\(3,\).*\(2, 2\)"):
        weighted(LOSS, torch.ones(3))
    with pytest.raises(ValueError, match=r"\(2,\), which does not fit a loss of \(2, 1, 2\)"):
        weighted(LOSS.unsqueeze(1), torch.ones(2))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"reduction must be one of .*'avg'"):
        reduce(LOSS, "avg")  # type: ignore[arg-type]
    for reduction in ("none", "sum"):
        with pytest.raises(ValueError, match=f"'{reduction}' does not use a normalizer"):
            reduce(LOSS, reduction, normalizer=2)
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2,\)"):
        check_same_shape(LOSS, LOSS[0])
    for inputs in (LOSS, LOSS[0, 0]):
        with pytest.raises(ValueError, match="last dimension must be 4"):
            check_same_shape(inputs, inputs, last=4)
    with pytest.raises(TypeError, match=r"floating point.*int64"):
        upcast(torch.ones(2, dtype=torch.int64))


def test_upcast_keeps_double() -> None:
    assert upcast(torch.ones(1, dtype=torch.float16)).dtype == torch.float32
    assert upcast(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


def test_gradients_of_float16_end_at_its_largest_value() -> None:
    narrow = torch.ones(4, dtype=torch.float16, requires_grad=True)
    (upcast(narrow) * torch.tensor([1e6, -1e6, 2.0, 0.0])).sum().backward()
    assert narrow.grad.tolist() == [65504, -65504, 2, 0]
