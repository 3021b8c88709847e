"""The rule of `ENGINE=auto` agrees with the measurements."""

import pytest

from bench.engine_report import gains_measured
from bench.engines import all_figures
from bench.synthetic import MIXES
from ggserve.engines.speed import GAINS


def test_the_rule_has_the_measured_figures_of_every_type():
    measured = gains_measured(all_figures())
    assert set(measured) == set(GAINS) == {most.name for most, _, _ in MIXES.values()}
    for kind, gains in measured.items():
        assert [list(some) for some in GAINS[kind]] == [pytest.approx(some, abs=0.011) for some in gains], kind
