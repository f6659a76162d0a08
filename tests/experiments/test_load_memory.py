import pytest

from experiments.decode import load_memory
from experiments.runner import Settings

SMOKE = Settings(scale="smoke")


@pytest.mark.parametrize("case", load_memory.cases(SMOKE), ids=lambda case: case.name)
def test_loading_needs_little_more_than_the_file(case):
    figures = {figure.metric: figure for figure in load_memory.measure(case, SMOKE)}
    growth = figures["peak growth over file"]
    # Reading every weight takes at least the file, or nothing was measured.
    assert 0.95 < growth.value <= load_memory.LIMIT
    assert growth.verdict == "PASS"
