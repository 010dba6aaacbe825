"""Files of replicates: what is in them, what keeps one out of a study, and how they are merged."""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import invented
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny

from hybridlib.config import RunConfig
from hybridlib.evaluation import respond
from hybridlib.store import paths
from hybridlib.store.errors import OneLineError
from hybridlib.store.paths import committed, local
from hybridlib.study import collect, grid, keys, replicates, stages
from hybridlib.study.replicates import ReplicateError

RATES = {"sft": 1e-3, "rl/keyword": 1e-3}
STUDY = {"variants": "base, sft, rl", "rewards": "keyword", "learning_rates": RATES}


def study(of: list[int], **values) -> RunConfig:
    return tiny(**STUDY | {"seeds": of} | values)


class Machine:
    """A checkout and a run store of its own, with invented stages."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.folder.mkdir(exist_ok=True)
        self.use()

    def use(self) -> "Machine":
        self.patch.setattr(paths, "PROJECT", self.folder)
        self.patch.setattr(stages, "folder_of", invented.stages_in(self.folder / "store"))
        return self

    def run(self, config: RunConfig) -> Path:
        """The tables of a study, and beside them the files of its replicates."""
        self.use()
        collect.write_tables(config, local(config.preset) / "tables")
        return local(config.preset)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return lambda name: Machine(tmp_path / name, monkeypatch)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The files of replicates 0 and 1, made once on another machine."""
    with pytest.MonkeyPatch.context() as patch:
        folder = Machine(tmp_path_factory.mktemp("elsewhere"), patch).run(study([0, 1]))
    return folder / "replicates"


# --- the file -----------------------------------------------------------------------------------


def test_a_file_written_twice_is_the_same_bytes_and_is_read_as_it_was_gathered(
    machine, tmp_path, monkeypatch
):
    machine("here")
    config, today = study([3]), time.time()
    first, second = tmp_path / "3.zip", tmp_path / "again.zip"
    replicates.write(config, 3, first)
    monkeypatch.setattr(time, "time", lambda: today + 86_400)
    replicates.write(config, 3, second)
    assert first.read_bytes() == second.read_bytes(), "whenever it is written"
    found, gathered = replicates.read([first]), replicates.gathered(config, 3)
    assert found.keys() == gathered.keys()
    for name, frame in gathered.items():
        pd.testing.assert_frame_equal(found[name], frame)
    assert set(found["values"].seed) == set(found["recipes"].seed) == {3}


def test_a_file_that_is_there_is_written_again_only_if_it_is_of_other_runs(machine, tmp_path):
    machine("here")
    path = tmp_path / "0.zip"
    replicates.write(study([0]), 0, path)
    written = path.stat().st_mtime_ns
    for same in (study([0, 1]), study([0], workers=1), study([0], fresh_bases=True)):
        replicates.write(same, 0, path)
        assert path.stat().st_mtime_ns == written
    other = study([0], steps=4)
    replicates.write(other, 0, path)
    assert not replicates.differences(other, path) and replicates.differences(study([0]), path)
    path.write_bytes(path.read_bytes()[:-100])
    replicates.write(other, 0, path)
    assert not replicates.differences(other, path), "a damaged one is written again"


def test_it_says_of_what_it_is(elsewhere):
    with zipfile.ZipFile(elsewhere / "1.zip") as file:
        told = json.loads(file.read("replicate.json"))
    assert told["seed"] == 1 and told["environments"] == [{"threads": "1"}]
    arms = {"base": ("base", "none"), "sft": ("sft", "none"), "rl/keyword": ("rl", "keyword")}
    keyed = {name: keys.evaluate(study([1]), *arm, 1).key for name, arm in arms.items()}
    assert told["runs"] == keyed
    assert told["learning_rates"] == RATES
    assert told["configuration"]["steps"] == 3


def test_several_are_put_together(elsewhere):
    one, two = (replicates.read([elsewhere / f"{seed}.zip"]) for seed in (0, 1))
    both = replicates.read([elsewhere / "0.zip", elsewhere / "1.zip"])
    for name, frame in both.items():
        pd.testing.assert_frame_equal(frame, pd.concat([one[name], two[name]], ignore_index=True))


# --- what differs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": 4}, ["steps is 3, and 4 here"]),
        ({"per_cell": 2, "steps": 4}, ["per_cell is 1, and 2 here", "steps is 3, and 4 here"]),
        ({"minority_share": 0.25}, ["minority_share is 0.3, and 0.25 here"]),
        ({"drawn": {"minority_share": [0.2, 0.4]}},
         ["drawn is {}, and {'minority_share': [0.2, 0.4]} here"]),
        ({"variants": "base, sft"},
         ["variants is ['base', 'sft', 'rl'], and ['base', 'sft'] here",
          "the learning rate of rl/keyword is 0.001, and not there here"]),
        ({"learning_rates": RATES | {"sft": 0.003}},
         ["the learning rate of sft is 0.001, and 0.003 here"]),
        # what may differ: which replicates, how they are run, how the study is called
        ({"seeds": [5], "workers": 3, "commit_weights": True, "fresh_bases": True}, []),
        ({"learning_rates": RATES | {"joint/keyword": 0.003}}, []),  # of what is not trained
    ],
)  # fmt: skip
def test_each_thing_that_differs_is_named(elsewhere, values, said):
    assert replicates.differences(study([0], **values), elsewhere / "0.zip") == said


def test_the_name_of_the_preset_may_differ(elsewhere):
    renamed = study([0]).model_copy(update={"preset": "mine"})
    assert not replicates.differences(renamed, elsewhere / "0.zip")


def test_another_version_of_a_stage_differs(elsewhere, monkeypatch):
    monkeypatch.setitem(keys.VERSIONS, "train", 999)
    (said,) = replicates.differences(study([0]), elsewhere / "0.zip")
    assert said.startswith("the version of stage train is ") and said.endswith(", and 999 here")


# --- merging ------------------------------------------------------------------------------------


def test_what_is_merged_is_not_run_and_the_tables_are_those_of_one_machine(machine, elsewhere):
    both = study([0, 1])
    alone, here = machine("alone").run(both), machine("here")
    assert any("seed 1" in job.name for job in grid.plan(both))
    assert replicates.merge(both, [elsewhere / "1.zip"]) == [1]
    assert set(replicates.merged(both)) == {1}
    left = grid.plan(both)
    assert not any("seed 1" in job.name for job in left)
    assert any("seed 0" in job.name for job in left)
    result = here.run(both)
    made = {path.name for path in (here.folder / "store").glob("*/*")}
    first, second = (
        {
            keys.of(both, stage, *arm, seed).key
            for stage in ("evaluate", "prefill")
            for arm in both.arms
        }
        | {keys.base(both, seed).key}
        for seed in (0, 1)
    )
    assert first <= made and not second & made, "of replicate 1 nothing was made"
    names = {path.name for path in (alone / "tables").iterdir()}
    assert names == {path.name for path in (result / "tables").iterdir()}
    for folder in ("tables", "replicates"):
        for path in (alone / folder).iterdir():
            there = result / folder / path.name
            assert there.read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_trained_replicates_of_two_stores_are_merged(tmp_path, monkeypatch):
    """The same with real stages. The store of the third machine has the folders of both, since
    seconds are measured."""
    monkeypatch.setattr(respond, "GATE_PER_CELL", 1)
    of = {"variants": "base, sft"}

    def run(name: str, config: RunConfig) -> Path:
        monkeypatch.setattr(paths, "PROJECT", tmp_path / name)
        monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / name / "store"))
        collect.write_tables(config, local(config.preset) / "tables")
        return local(config.preset)

    first, second = run("first", study([0], **of)), run("second", study([1], **of))
    for name in ("first", "second"):
        shutil.copytree(tmp_path / name / "store", tmp_path / "both" / "store", dirs_exist_ok=True)
    both = study([0, 1], **of)
    alone = run("both", both)
    monkeypatch.setattr(paths, "PROJECT", tmp_path / "first")
    replicates.merge(both, [second / "replicates"])
    assert not any("seed 1" in job.name for job in grid.plan(both))
    run("first", both)
    for path in (*(alone / "tables").iterdir(), *(alone / "replicates").iterdir()):
        assert (first / path.parent.name / path.name).read_bytes() == path.read_bytes(), path.name
    trained = list((tmp_path / "first" / "store" / "train").glob("[!.]*"))
    assert len(trained) == 1, "nothing was trained again"


def test_folders_and_what_is_committed_are_merged(machine, elsewhere):
    machine("here")
    both = study([0, 1])
    place = committed(both.preset) / "replicates"
    with pytest.raises(ReplicateError, match=r"no replicate is there"):
        replicates.merge(both, [])
    shutil.copytree(elsewhere, place / "batch")
    assert replicates.merge(both, []) == [0, 1]
    assert {job.name.split()[0] for job in grid.plan(both)} == {"tables", "figures"}
    assert replicates.merge(both, [elsewhere, elsewhere / "0.zip"]) == [0, 1], "the same twice"


def test_a_study_of_other_replicates_does_not_take_them(machine, elsewhere):
    machine("here")
    replicates.merge(study([0, 1]), [elsewhere])
    assert set(replicates.merged(study([1, 2]))) == {1}
    assert not replicates.merged(study([0, 1], steps=4)), "they are of another configuration now"


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def rewritten(path: Path, change: Callable[[dict], object]) -> None:
    """The same replicate with something else in its replicate.json."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    told = json.loads(content["replicate.json"])
    change(told)
    content["replicate.json"] = json.dumps(told).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, each in content.items():
            file.writestr(name, each)


def of_another_rate(path: Path) -> None:
    rewritten(path, lambda told: told["learning_rates"].update(sft=0.1))


def of_other_steps(path: Path) -> None:
    rewritten(path, lambda told: told["configuration"].update(steps=9))


def of_another_version(path: Path) -> None:
    rewritten(path, lambda told: told["stages"].update(evaluate=1))


def of_no_seed(path: Path) -> None:
    rewritten(path, lambda told: told.pop("seed"))


def without_a_frame(path: Path) -> None:
    rewritten(path, lambda told: told["frames"].remove("values"))


def twice(path: Path) -> None:
    shutil.copyfile(path, path.with_name("again.zip"))
    rewritten(path, lambda told: told["environments"].append({}))


def no_zip(path: Path) -> None:
    path.write_text("nothing of the kind")


def without_meta(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("values.parquet", b"")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damaged, "not the file of a replicate"),
        (no_zip, "not the file of a replicate"),
        (without_meta, "not the file of a replicate"),
        (cut, "not the file of a replicate"),
        (of_no_seed, "not the file of a replicate"),
        (without_a_frame, "not the file of a replicate"),
        (of_another_rate, "the learning rate of sft is 0.1, and 0.001 here"),
        (of_other_steps, "steps is 9, and 3 here"),
        (of_another_version, "the version of stage evaluate is 1, and"),
        (twice, "replicate 1 comes twice, with other content"),
    ],
)
def test_one_that_is_refused_keeps_all_of_them_out(machine, elsewhere, tmp_path, spoil, said):
    machine("here")
    both, place = study([0, 1]), tmp_path / "brought"
    shutil.copytree(elsewhere, place)
    spoil(place / "1.zip")
    with pytest.raises(ReplicateError, match=said) as caught:
        replicates.merge(both, [place / "0.zip", place])
    told = str(caught.value)
    assert isinstance(caught.value, OneLineError) and "\n" not in told
    assert "1.zip" in told or "again.zip" in told, "it names the file"
    assert not replicates.merged(both)
    assert not list(paths.PROJECT.rglob("*.zip"))


def test_a_place_that_is_not_there_is_refused(machine, elsewhere, tmp_path):
    machine("here")
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(ReplicateError, match=r"no replicate is there"):
            replicates.merge(study([0, 1]), [elsewhere, place])
    assert not replicates.merged(study([0, 1]))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_is_damaged_is_found(elsewhere, tmp_path, data):
    """Any byte changed, any length: it is the replicate that it was, or none at all."""
    content = bytearray((elsewhere / "0.zip").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "0.zip"
    path.write_bytes(content)
    if replicates.differences(study([0]), path):
        return
    whole = replicates.read([elsewhere / "0.zip"])
    for name, frame in replicates.read([path]).items():
        pd.testing.assert_frame_equal(frame, whole[name])


def test_what_cannot_be_read_is_one_line(tmp_path):
    path = tmp_path / "0.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("values.parquet", b"no parquet")
    with pytest.raises(ReplicateError, match=r"not the file of a replicate") as caught:
        replicates.read([path])
    assert "\n" not in str(caught.value)
    assert os.fspath(path) in str(caught.value)
