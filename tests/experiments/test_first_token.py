from experiments.decode import first_token
from experiments.runner import Settings

SMOKE = Settings(scale="smoke")


def test_cold_and_warm_starts_are_timed_to_the_first_character():
    (case,) = first_token.cases(SMOKE)
    found = {figure.metric: figure.value for figure in first_token.measure(case, SMOKE)}
    assert set(first_token.LIMITS_S) < set(found)
    # A process that loads jax and a model takes longer than one that loads neither.
    assert 0 < found["import ariel_jax"] < found["first text, cold"]
