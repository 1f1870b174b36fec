"""Noise levels printed in the lesson that this project follows (Stable Diffusion Deep Dive): equal to 1e-4."""

import pytest

from diffuscope.config import ScheduleConfig
from diffuscope.diffusion.schedules import Schedule

TOLERANCE = 1e-4

LINSPACE_15 = (
    *(14.6146, 9.6826, 6.6780, 4.7746, 3.5221, 2.6666, 2.0606, 1.6156),
    *(1.2768, 1.0097, 0.7913, 0.6056, 0.4397, 0.2780, 0.0292, 0.0),
)
KARRAS_15 = (
    *(14.6146, 10.8198, 7.9029, 5.6878, 4.0277, 2.8016, 1.9104, 1.2741),
    *(0.8289, 0.5243, 0.3211, 0.1896, 0.1072, 0.0576, 0.0292, 0.0),
)


@pytest.fixture(scope="module")
def schedule():
    return Schedule(ScheduleConfig(spacing="linspace"))


def test_trained_range(schedule):
    assert schedule.sigmas[0].item() == pytest.approx(0.0291672, abs=1e-6)
    assert schedule.sigmas[-1].item() == pytest.approx(14.6146412, abs=1e-5)


@pytest.mark.parametrize(("spacing", "expected"), [("model", LINSPACE_15), ("karras", KARRAS_15)])
def test_fifteen_steps(schedule, spacing, expected):
    levels = schedule.levels(15, sampler="lms", sigmas=spacing)
    assert levels.sigmas == pytest.approx(expected, abs=TOLERANCE)
    assert levels.start_scale == pytest.approx(14.6146, abs=TOLERANCE)


def test_times(schedule):
    times = schedule.levels(15, sampler="lms").timesteps
    assert times[:3] == pytest.approx((999, 927.6429, 856.2857), abs=TOLERANCE)
    assert times[-3:] == pytest.approx((71.3571, 0, 0), abs=TOLERANCE)
    assert schedule.levels(70).timesteps[:3] == pytest.approx((999, 984.52, 970.04), abs=0.01)
