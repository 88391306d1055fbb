import pytest
from scipy import stats

from boxwright.study.comparison.student import t_quantile, t_two_sided


@pytest.mark.parametrize("df", [1, 2, 2.5, 4, 11.3, 60, 400, 5000, float("inf")])
def test_tail_and_quantile_are_scipys(df):
    for t in (0, 0.01, 0.5, 1, 2.2, 5, 40, -3):
        assert t_two_sided(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-9, abs=1e-14)
    for chance in (1e-6, 0.001, 0.05 / 6, 0.05, 0.5, 0.99):
        assert t_quantile(chance, df) == pytest.approx(stats.t.isf(chance / 2, df), rel=1e-8)
