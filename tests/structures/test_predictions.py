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


def test_a_column_for_background_makes_scores_a_softmax():
    logits, background = torch.randn(2, 5, 3), torch.randn(2, 5, 1)
    predictions = Predictions(logits, torch.zeros(2, 5, 4), {"background": background})
    expected = torch.cat([logits, background], -1).softmax(-1)[..., :3]
    torch.testing.assert_close(predictions.scores(), expected)
    alone = predictions.with_sigmoids()
    torch.testing.assert_close(alone.scores(), expected)
    assert alone.extras == {}
    assert predictions.columns().shape == (2, 5, 4)
    certain = Predictions(torch.full((1, 1, 1), 1e4), torch.zeros(1, 1, 4), {"background": torch.zeros(1, 1, 1)})
    assert certain.with_sigmoids().logits.isfinite().all()
