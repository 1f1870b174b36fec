import pytest

from diffuscope.diffusion.samplers import SAMPLERS, TABLE, find
from diffuscope.sampler_table import FACTS
from refusals import refused


@pytest.mark.parametrize("info", TABLE.values(), ids=lambda info: info.name)
def test_every_name_finds_its_sampler(info):
    for name in (info.name, info.label, *info.aliases):
        for spelling in (name, name.upper(), name.removesuffix("Scheduler"), name.replace("_", " ")):
            assert find(spelling) == (info, None)


@pytest.mark.parametrize(
    ("name", "sampler", "spacing"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("dpmpp_2m_karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M Exponential", "dpmpp_2m", "exponential"),
        ("DPM++ 2M SDE Heun Karras", "dpmpp_2m_sde_heun", "karras"),
        ("DPM++ 3M SDE Exponential", "dpmpp_3m_sde", "exponential"),
        ("DPM++ 2M SGM Uniform", "dpmpp_2m", "sgm_uniform"),
        ("euler_beta", "euler", "beta"),
        ("ddim_trailing", "ddim", "trailing"),
        ("DPM2 a Karras", "kdpm2_ancestral", "karras"),
        ("DPM++ 2S a", "dpmpp_2s_ancestral", None),
        ("uni_pc", "unipc", None),
        ("PLMS", "pndm", None),
        ("PNDM", "pndm", None),
        ("F-PNDM", "f_pndm", None),
        ("LMS Karras", "lms", "karras"),
        ("Euler a", "euler_ancestral", None),
        ("k_euler_a", "euler_ancestral", None),
        ("Euler", "euler", None),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", None),
    ],
)
def test_known_spellings(name, sampler, spacing):
    assert find(name) == (TABLE[sampler], spacing)


@pytest.mark.parametrize(
    ("name", "near"), [("eulr", "euler"), ("DPM+ 2M", "dpmpp_2m"), ("dpm++2n", "dpmpp_2m"), ("huen", "heun")]
)
def test_an_unknown_name_tells_the_nearest_and_all(name, near):
    with refused("sampler", name) as caught:
        find(name)
    assert near in caught.value.hint
    assert all(known in caught.value.want for known in TABLE)


@pytest.mark.parametrize("name", ["", "   ", "karras", "???"])
def test_a_name_like_no_other_tells_all(name):
    with refused("sampler", name) as caught:
        find(name)
    assert all(known in caught.value.want for known in TABLE)


def test_each_spelling_means_one_sampler():
    names = [name.lower() for info in TABLE.values() for name in (info.name, *info.aliases)]
    assert len(names) == len(set(names))


def test_each_row_has_its_function():
    assert SAMPLERS.keys() == FACTS.keys()
