import torch

from boxwright.structures import Predictions


def test_scores_are_the_product_of_class_and_quality():
    logits, quality = torch.randn(2, 5, 3), torch.randn(2, 5, 1)
    params = torch.zeros(2, 5, 4)
    torch.testing.assert_close(Predictions(logits, params).scores(), logits.sigmoid())
    with_quality = Predictions(logits, params, {"quality": quality}).scores()
    torch.testing.assert_close(with_quality, logits.sigmoid() * quality.sigmoid())
    half = Predictions(logits.half(), params, {"quality": quality.half()}).scores()
    assert half.dtype == torch.float32
