"""The checkers of lesson 09, and the results that it plots."""

import pytest
from verdicts import assert_nothing_and_right

from minidalle.lessons import scaling
from minidalle.lessons.checks import scaling as checks
from minidalle.memory import parameter_count


def cache_of_one(layers, d, n, t, each):
    return 2 * layers * (n + t) * d * each


def training_days(flops, pictures, epochs, gpus, peak, used):
    return 3 * flops * pictures * epochs / (gpus * peak * used) / 86_400


def places(c, readers, shards, epochs):
    return list(range(c, epochs * shards, readers))


ANSWERS = {"cache_of_one": cache_of_one, "training_days": training_days, "places": places}


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_and_right(name):
    assert_nothing_and_right(getattr(checks, name), ANSWERS[name])


def days(factor):
    return lambda *case: training_days(*case) * factor(*case)


WRONG = [
    ("cache_of_one", lambda *case: cache_of_one(*case) // 2, "keys and values"),
    ("cache_of_one", lambda *case: cache_of_one(*case) * 2, "super-conditioning"),
    ("cache_of_one", lambda layers, d, n, t, each: 2 * layers * n * d * each, "of the text"),
    ("cache_of_one", lambda layers, d, n, t, each: 2 * (n + t) * d * each, "every layer"),
    ("cache_of_one", lambda *case: 1, "yours is 1"),
    ("training_days", days(lambda *case: 1 / 3), "three forward passes"),
    ("training_days", days(lambda *case: 24), "hours"),
    ("training_days", days(lambda *case: 86_400), "seconds"),
    ("training_days", days(lambda *case: case[5]), "does not reach its peak"),
    ("training_days", days(lambda *case: case[5] ** 2), "do not multiply"),
    ("training_days", days(lambda *case: case[3]), "share the work"),
    ("training_days", days(lambda *case: 1 / case[2]), "once in each epoch"),
    ("places", lambda c, r, s, e: [p % s for p in places(c, r, s, e)], "go on counting"),
    ("places", lambda c, r, s, e: [k * s + p for k in range(e) for p in range(c, s, r)], "anew"),
    ("places", lambda c, r, s, e: list(range(c, s, r)), "first epoch"),
    ("places", lambda c, r, s, e: list(range(c * s // r, (c + 1) * s // r)), "neighbouring"),
]


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_wrong_answers_are_told_why(name, answer, hint):
    verdict = getattr(checks, name).verdict(answer)
    assert verdict.startswith("✗ not yet:") and hint in verdict, verdict


def test_results_are_of_the_models_that_the_code_would_train():
    scenes, points = scaling.make_scenes(600), scaling.load_results()
    assert [point.d_model for point in points] == list(scaling.WIDTHS)
    for point in points:
        assert point.parameters == parameter_count(scaling.config_of(point.d_model, scenes))
    assert scenes.image_ids.shape == (600, 64) and int(scenes.image_ids.max()) < scaling.K
