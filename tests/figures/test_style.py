"""How variants and classes look: told apart by colour, marker and hatch."""

import itertools
import shutil
from contextlib import suppress

import numpy as np
import pytest
from failing import at_change, full
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from hybridlib.figures import registry, style
from hybridlib.tasks.responses import CLASSES
from hybridlib.variants import VARIANTS, families, measured

DEFAULT = ("base", "rl", "rl_gold", "sft", "sft_narrow", "two_stage", "joint")


def test_every_variant_has_a_look_of_its_own():
    looks = style.looks().values()
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)
    for part in zip(*looks, strict=True):
        assert len(set(part)) == len(part)
    for variant in style.looks():
        rule, model = style.marker_of(f"{variant}/rule"), style.marker_of(f"{variant}/model")
        assert rule["markerfacecolor"] != model["markerfacecolor"]
        assert rule["markeredgecolor"] == model["markeredgecolor"]
        assert style.bar_of(f"{variant}/rule") != style.bar_of(f"{variant}/model")


def test_arms_are_in_the_order_of_the_variants_then_of_the_rewards():
    arms = ["reward_model/none", "rl/model", "sft/none", "rl/keyword", "base/none"]
    expected = ["base/none", "rl/keyword", "rl/model", "sft/none", "reward_model/none"]
    assert sorted(arms, key=style.order_of) == expected
    assert [style.label_of(arm) for arm in expected[1:4]] == ["rl (keyword)", "rl (model)", "sft"]


def test_every_trained_variant_has_one_family_and_is_next_to_it():
    members = [variant for family in families().values() for variant in family]
    assert sorted(members) == sorted(variant for variant in measured() if variant != "base")
    arms = [f"{variant}/none" for variant in ("base", *members)]
    assert sorted(sorted(arms), key=style.order_of) == arms


def test_every_variant_of_the_study_can_be_drawn():
    assert all(VARIANTS[variant].look for variant in measured())


def lab(colour: str, deuteranopia: bool = False) -> np.ndarray:
    """CIELAB under D65; deuteranopia by Machado, Oliveira and Fernandes (2009) at full severity."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if deuteranopia:
        machado = [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
        linear = np.clip(np.array(machado) @ linear, 0, 1)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = np.array(to_xyz) @ linear / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deuteranopia", [False, True])
def test_colours_are_told_apart(deuteranopia):
    for one, other in itertools.combinations(style.looks(), 2):
        a, b = (lab(style.looks()[name].colour, deuteranopia) for name in (one, other))
        enough = 15 if {one, other} <= set(DEFAULT) else 8  # a marker of its own does the rest
        assert np.linalg.norm(a - b) > enough, f"{one} looks like {other}"


@pytest.mark.parametrize("classes", [style.HARMFUL_CLASSES, style.BENIGN_CLASSES])
def test_classes_are_told_apart_in_grey(classes):
    assert set(classes) == set(CLASSES[classes_kind(classes)])
    for (_, colour, hatch), (_, other, its) in itertools.combinations(classes.values(), 2):
        assert hatch != its or abs(lab(colour)[0] - lab(other)[0]) > 25


def classes_kind(classes: dict) -> str:
    return "harmful" if classes is style.HARMFUL_CLASSES else "benign"


def test_a_saved_figure_has_few_colours_and_looks_the_same(results, tmp_path):
    fig = registry.figures()["response_classes"].draw(results)
    saved = Image.open(style.save(fig, tmp_path, "small"))
    with style.styled():
        fig.savefig(tmp_path / "full.png")
    full = np.asarray(Image.open(tmp_path / "full.png").convert("RGB"), float)
    assert saved.mode == "P" and saved.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert np.abs(np.asarray(saved.convert("RGB"), float) - full).mean() < 1


def test_a_figure_that_cannot_be_written_whole_leaves_the_one_before(tmp_path):
    figure = Figure()
    path = style.save(figure, tmp_path, "cost")
    before = path.read_bytes()
    figure.subplots().plot([1, 2])
    after = style.save(figure, tmp_path / "whole", "cost").read_bytes()
    shutil.rmtree(tmp_path / "whole")
    for nth in range(3):
        with suppress(OSError), at_change(nth, full):
            style.save(figure, tmp_path, "cost")
        assert path.read_bytes() in (before, after)
        assert [file.name for file in tmp_path.iterdir()] == ["cost.png"]
