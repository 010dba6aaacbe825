"""The graph of the study's notebooks."""

import os
import shutil
import threading
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_origin

import nbformat
import papermill
import pytest
import yaml
from standin import ARMS, Config, Project

from hybridlib import config
from hybridlib.store.errors import OneLineError
from hybridlib.store.lock import BusyError
from hybridlib.study import collect, grid, parameters, stages
from hybridlib.study import notebook as nb
from hybridlib.study.jobs import StudyError, Work, run
from hybridlib.variants import VARIANTS, stated


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    project.install(monkeypatch)
    return project


def test_the_plan_has_every_job_once(project: Project):
    jobs = grid.plan(project.config)
    names = [job.name for job in jobs]
    trained = [f"train {grid.arm_name(*arm)} seed {s}" for arm in ARMS[1:] for s in (0, 1)]
    evaluated = [f"evaluate {grid.arm_name(*arm)}" for arm in ARMS]
    drawn = [f"figures {name}" for name in grid.FIGURES]
    bases = ["base seed 0", "base seed 1"]
    assert sorted(names) == sorted([*bases, *trained, *evaluated, "tables", *drawn])
    assert len({job.output for job in jobs if job.output}) == len(jobs) - 1


def test_hybrids_are_drawn_where_they_are_compared(project: Project):
    drawn = [job.name for job in grid.plan(project.config) if job.name.startswith("figures")]
    assert "figures 08_hybrids" not in drawn
    jobs = grid.figures("hybrids", ["rl", "sft", "gated"], project.root, project.root)
    assert [job.name for job in jobs] == [*drawn, "figures 08_hybrids"]


def test_every_job_comes_after_what_it_needs(project: Project):
    jobs = {job.name: job for job in grid.plan(project.config)}
    order = list(jobs)
    for job in jobs.values():
        assert all(order.index(name) < order.index(job.name) for name in job.needs)
    assert jobs["train two_stage/model seed 1"].needs == ("train sft seed 1",)
    assert jobs["train sft seed 1"].needs == ("base seed 1",)
    assert jobs["evaluate base"].needs == ("base seed 0", "base seed 1")
    trained = ("train rl/keyword seed 0", "train rl/keyword seed 1")
    assert jobs["evaluate rl/keyword"].needs == trained
    assert set(jobs["tables"].needs) == {name for name in order if name.startswith("evaluate")}
    assert jobs["figures 07_verdicts"].needs == ("tables",)
    # what others are built on is first of its seed
    assert order[2:4] == ["train sft seed 0", "train rl/model seed 0"]


def test_replicates_that_share_a_base_share_its_job(project: Project, monkeypatch):
    """As with a fixed base_seed: one job a distinct key, named by the first seed that has it."""
    monkeypatch.setattr(
        stages, "stage_key", lambda config, *unit: "shared" if unit[0] == "base" else str(unit)
    )
    jobs = {job.name: job for job in grid.plan(Config(seeds=(3, 4)))}
    assert [name for name in jobs if name.startswith("base")] == ["base seed 3"]
    assert jobs["base seed 3"].parameters["seed"] == 3
    assert jobs["train sft seed 4"].needs == jobs["evaluate base"].needs == ("base seed 3",)


def test_replicates_that_were_merged_are_in_the_tables_alone(project: Project, monkeypatch):
    monkeypatch.setattr(grid, "_own", lambda config: replace(config, seeds=(1,)))
    written = []
    monkeypatch.setattr(collect, "write_tables", lambda config, place: written.append(config.seeds))
    Gate(monkeypatch).opened.set()
    jobs = {job.name: job for job in grid.plan(project.config)}
    assert [name for name in jobs if name.endswith("seed 0")] == []
    assert jobs["evaluate sft"].needs == ("train sft seed 1",)
    grid.run(project.config, list(jobs.values()), 2, report=str)
    assert written == [(0, 1)]
    monkeypatch.setattr(grid, "_own", lambda config: replace(config, seeds=()))
    none = grid.plan(project.config)
    assert [job.kind for job in none] == ["tables", *["figures"] * len(grid.FIGURES)]


def test_stages_that_are_no_arms_are_trained_once_and_not_evaluated(project: Project):
    arms = (("base", "none"), ("two_stage", "model"), ("multi_stage", "keyword"))
    config = Config(arms=(*arms, ("multi_stage", "model")), seeds=(0,))
    jobs = {job.name: job for job in grid.plan(config)}
    assert {name: jobs[name].needs for name in jobs if name.startswith("train ")} == {
        "train sft seed 0": ("base seed 0",),
        "train two_stage/model seed 0": ("train sft seed 0",),
        "train r1_reasoning seed 0": ("train sft seed 0",),
        "train r1_resampled/keyword seed 0": ("train r1_reasoning seed 0",),
        "train multi_stage/keyword seed 0": ("train r1_resampled/keyword seed 0",),
        "train r1_resampled/model seed 0": ("train r1_reasoning seed 0",),
        "train multi_stage/model seed 0": ("train r1_resampled/model seed 0",),
    }
    evaluated = [name for name in jobs if name.startswith("evaluate ")]
    assert evaluated == [f"evaluate {grid.arm_name(*arm)}" for arm in config.arms]


def test_notebooks_are_given_the_resolved_configuration(project: Project):
    jobs = {job.name: job for job in grid.plan(project.config)}
    folder = project.root / "results" / "local" / "organism"
    preset = jobs["base seed 0"].parameters["preset"]
    train, evaluate = jobs["train rl/model seed 1"], jobs["evaluate sft"]
    at = {"variant": "rl", "reward": "model"}
    assert train.parameters == {"preset": preset, "seed": 1} | at
    assert train.output == folder / "notebooks" / "02_train-rl-model-seed1.ipynb"
    assert evaluate.parameters == {"preset": preset, "variant": "sft", "reward": "none"}
    assert evaluate.output == folder / "notebooks" / "03_evaluate-sft.ipynb"
    assert jobs["figures 05_readability"].parameters["results"] == str(folder)


class Gate:
    """Stands in for kernels: each job notes the parameters that its notebook would read, and waits
    until the gate is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.read: list[dict] = []
        monkeypatch.setattr(Work, "execute", lambda work: self.execute(work))

    def execute(self, work: Work) -> str:
        self.entered.set()
        assert self.opened.wait(30)
        if "figures" not in work.job.name:
            self.read.append(yaml.safe_load(Path(work.job.parameters["preset"]).read_text()))
        return ""


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_planning_writes_nothing(project: Project):
    before = listing(project.root)
    grid.outline(grid.plan(project.config), 2)
    assert listing(project.root) == before


def test_no_other_study_changes_one_that_runs(project: Project, monkeypatch):
    gate, report = Gate(monkeypatch), lambda line: None
    first, second = Config(seeds=(0,)), Config(seeds=(0, 1, 2))
    with futures.ThreadPoolExecutor(1) as pool:
        study = pool.submit(grid.run, first, grid.plan(first), 2, report=report)
        assert gate.entered.wait(30)
        before = listing(project.root)
        dry = grid.outline(grid.plan(second), 2)
        with pytest.raises(BusyError, match=f"process {os.getpid()} on .*since.*wait"):
            grid.run(second, grid.plan(second), 2, report=report)
        assert listing(project.root) == before
        gate.opened.set()
        outcomes = study.result(30)
    assert dry.startswith("base: 0 of 3 done")
    assert {outcome.status for outcome in outcomes} == {"finished"}
    trained = [outcome for outcome in outcomes if outcome.job.name.startswith("train ")]
    assert len(gate.read) == 1 + len(trained) + len(ARMS)
    assert all(read == first.flat() for read in gate.read)
    # and then it is the second's turn, with its own
    gate.read.clear()
    grid.run(second, grid.plan(second), 2, report=report)
    assert all(read == second.flat() for read in gate.read) and gate.read


def test_other_seeds_leave_what_is_executed_as_it_is(project: Project):
    """The key of a job says which parameters it rests on; the file's name is a hash of all."""
    few, many = (
        {job.name: job for job in grid.plan(Config(seeds=seeds)) if job.notebook}
        for seeds in ((0,), (0, 1))
    )
    name = "train rl/keyword seed 0"
    assert few[name].parameters["preset"] != many[name].parameters["preset"]
    assert few[name].stamp() == many[name].stamp()
    measured = "evaluate rl/keyword"
    assert few[measured].stamp() != many[measured].stamp()  # of other keys


def test_a_checkout_that_was_moved_has_nothing_to_do_again(tmp_path: Path, monkeypatch):
    stamps = []
    for place in ("here", "there"):
        project = Project(tmp_path / place)
        project.install(monkeypatch)
        sources = tmp_path / "here" / "notebooks"
        if place == "there":
            shutil.copytree(sources, project.root / "notebooks", dirs_exist_ok=True)
        jobs = [job for job in grid.plan(project.config) if job.notebook]
        assert all(str(tmp_path / place) in str(job.parameters) for job in jobs)
        stamps.append([job.stamp() for job in jobs])
    assert stamps[0] == stamps[1] and len(set(stamps[0])) == len(stamps[0])


def copied(work: Work) -> str:
    """Copy the notebook instead of starting a kernel, to save a minute."""
    work.job.output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work.job.notebook, work.job.output)
    nb.write_stamp(work.job.output, work.job.stamp())
    return ""


def test_what_is_in_the_store_is_not_started_again(project: Project, monkeypatch):
    monkeypatch.setattr(Work, "execute", copied)
    config = Config(arms=(("base", "none"), ("sft", "none")), seeds=(0,))
    lines: list[str] = []

    def statuses() -> dict[str, str]:
        lines.clear()
        outcomes = run(grid.plan(config), 2, report=lines.append)
        return {outcome.job.name: outcome.status for outcome in outcomes}

    assert set(statuses().values()) == {"finished"}
    base, train = ("base", "base", "none", 0), ("train", "sft", "none", 0)
    measured = [(s, v, "none", 0) for s in ("evaluate", "prefill") for v in ("base", "sft")]
    project.done |= {base, train, *measured}
    again = statuses()
    assert {name for name, status in again.items() if status == "finished"} == {
        "tables",
        *(f"figures {name}" for name in grid.FIGURES),
    }
    assert lines[0] == "[4/9] 4 unchanged since an earlier run"

    project.done.remove(train)  # damaged, say
    assert next(n for n, s in statuses().items() if s == "finished") == "train sft seed 0"
    project.done.add(train)
    project.version = 2  # the notebooks show results of other keys
    assert set(statuses().values()) == {"finished"}


def test_a_base_that_fails_the_gate_ends_the_study(project: Project):
    project.source("01_base", "raise RuntimeError('the base fails the gate: sums 12%')")
    lines: list[str] = []
    with pytest.raises(StudyError) as error:
        run(grid.plan(project.config), 2, report=lines.append)
    one, _, why = str(error.value).partition(" failed ")
    assert one in ("base seed 0", "base seed 1")  # both run at once
    assert why == (
        "(and 1 more): RuntimeError: the base fails the gate: sums 12%; "
        "21 that need them were skipped"
    )
    executed = project.root / "results" / "local" / "organism" / "notebooks"
    names = sorted(path.name for path in executed.iterdir())
    assert names == ["01_base-seed0.ipynb", "01_base-seed1.ipynb"]


def test_a_study_beside_one_that_was_never_run_ends_before_any_work(project: Project):
    project.config.study.beside = "other"
    with pytest.raises(OneLineError, match="make study PRESET=other"):
        grid.plan(project.config)
    assert not (project.root / "results").exists()


def test_description_marks_what_differs_from_the_preset(project: Project, monkeypatch):
    changed = Config(seeds=(0, 1, 2))
    lines = grid.describe(changed, "organism").splitlines()
    assert lines[2:] == ["| **seeds** | **3** | 2 |", "| preset | organism |  |"]
    assert "**" not in grid.describe(project.config, "organism")


def test_summary_counts_kinds(project: Project):
    text = grid.summary(grid.plan(project.config))
    assert text == "23 jobs: 2 base, 10 train, 6 evaluate, 1 tables, 4 figures"


def test_an_outline_tells_what_is_done_and_how_long_the_rest_took_here_before(project):
    plan = grid.plan(project.config)
    told = grid.outline(plan, 2).splitlines()
    assert told[0] == "base: 0 of 2 done, 2 to run"
    assert told[-1] == "in all: about 0 s, and what was never run here"
    for n, job in enumerate(job for job in plan if job.name.startswith("train ")):
        if n < 4:  # executed before in 30 s each; what the first two show is still so
            node = nbformat.v4.new_notebook(metadata={"papermill": {"duration": 30.0}})
            job.output.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(node, job.output)
            nb.write_stamp(job.output, job.stamp() if n < 2 else "of other parameters")
            variant, reward = job.parameters["variant"], job.parameters["reward"]
            project.done.add(("train", variant, reward, job.parameters["seed"]))
    told = grid.outline(grid.plan(project.config), 2).splitlines()
    assert told[1] == "train: 2 of 10 done, 8 to run, about 2 min"
    assert told[-1] == "in all: about 2 min, and what was never run here"


PRESET_LINE = 'preset: str = "organism"  # name in notebooks/presets, or a file of parameters'
OFFERED = {  # notebook -> parts of the configuration that it offers, and what it adds to them
    "00_study": (("study", "base", "shares", "train", "reward", "evaluate", "public"), ["dry_run"]),
    "01_base": (("base", "shares"), ["seed"]),
    "02_train": (("train", "reward"), ["variant", "reward", "seed"]),
    "03_evaluate": (("evaluate",), ["variant", "reward", "seeds"]),
}


def overrides(part: str) -> list[str]:
    """The lines that offer every field of a part as an override, with the default preset's value
    as --help-notebook shows it."""
    found, values = [], getattr(config.load_config(), part)
    for name, field in config.PARTS[part].model_fields.items():
        kind = get_origin(field.annotation) or field.annotation
        kind = {tuple: "list", Literal: "str", Union: "object", UnionType: "object"}.get(
            kind, getattr(kind, "__name__", kind)
        )
        value = parameters.brief(getattr(values, name))
        found.append(f"{name}: Optional[{kind}] = None  # {field.description} [{value}]")
    return found


@pytest.mark.parametrize("name", OFFERED)
def test_notebooks_offer_every_parameter_of_theirs(name: str):
    source = Path(grid.__file__).parents[2] / "notebooks" / f"{name}.ipynb"
    cells = nbformat.read(source, as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    parts, added = OFFERED[name]
    assert name != "00_study" or set(parts) == set(config.PARTS)
    lines = [line for part in parts for line in overrides(part)]
    expected = "\n".join([PRESET_LINE, *lines])
    first, *rest = cell.source.splitlines()
    own, offered = rest[: len(added)], rest[len(added) :]
    assert [line.split(":")[0] for line in own] == added
    assert "\n".join([first, *offered]) == expected, f"write this into {name}:\n{expected}"
    shown = papermill.inspect_notebook(str(source)).values()
    assert len(shown) == len(cell.source.splitlines()) and all(p["help"] for p in shown)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_stated(name: str):
    words, loss = stated(name).split("\n\n")
    assert words.startswith(f"**`{name}`.** ") and words.endswith(".")
    assert loss.count("$$") == 2 and len(loss) > 10
