"""The study as a graph of notebooks.

01_base -> 02_train (variant, reward, seed) -> 03_evaluate (variant, reward)
        -> tables -> 04 to 07, and 08 where hybrids are compared
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import yaml

from hybridlib import config as configuration
from hybridlib.config import RunConfig
from hybridlib.figures import markdown
from hybridlib.store import replace
from hybridlib.store.lock import only_here
from hybridlib.store.paths import NOTEBOOKS, local
from hybridlib.study import jobs, stages
from hybridlib.study.jobs import Job, Outcome, duration
from hybridlib.study.notebook import metadata_of
from hybridlib.study.replicates import merged
from hybridlib.variants import arm_name, before, chain, compares_hybrids

# Trained first: the start of hybrids, and the first variant that needs the reward model. Else a
# second worker would only wait for the lock of the store.
FIRST = [("sft", "none"), ("rl", "model")]
FIGURES = ("04_harmlessness", "05_readability", "06_generalization", "07_verdicts")
HYBRIDS = "08_hybrids"


def plan(config: RunConfig, folder: Path | None = None) -> list[Job]:
    """Every job of the study, each after those that it needs; of replicates that were merged, none.

    Nothing is written: `run` does that, in the `folder` of the results (default:
    results/local/<preset>). Every notebook is given the file of the resolved configuration as its
    `preset`; the file is named by its content, so that it never changes under a notebook.
    """
    from hybridlib.figures import results  # here: the kernels of single jobs need neither
    from hybridlib.study.collect import write_tables

    if config.study.beside:
        results.load(config.study.beside)  # if there are none, this says so now and not at the end
    folder, whole, config = folder or local(config.preset), config, _own(config)
    preset = _preset(config, folder)

    def job(name: str, source: str, units: list[tuple], needs: list[str], **at: object) -> Job:
        # 02_train-rl-model-seed0, 03_evaluate-sft
        _, *words = name.replace("/", "-").replace("seed ", "seed").split()
        return Job(
            name=name,
            notebook=NOTEBOOKS / f"{source}.ipynb",
            parameters={"preset": str(preset)} | at,
            output=folder / "notebooks" / f"{'-'.join([source, *words])}.ipynb",
            needs=tuple(needs),
            done=lambda: all(stages.is_done(config, *unit) for unit in units),
            key=" ".join(stages.stage_key(config, *unit) for unit in units),
        )

    based: dict[str, int] = {}  # the key of each base -> the first seed that has it
    for seed in config.seeds:
        based.setdefault(stages.stage_key(config, "base", "base", "none", seed), seed)
    of = {s: f"base seed {based[stages.stage_key(config, 'base', 'base', 'none', s)]}"
          for s in config.seeds}  # fmt: skip
    planned = [
        job(of[seed], "01_base", [("base", "base", "none", seed)], [], seed=seed)
        for seed in based.values()
    ]
    # A stage of a chain is trained once, even if it is no arm.
    first = [arm for arm in FIRST if arm in config.arms]
    trained = dict.fromkeys(phase for arm in (*first, *config.arms) for phase in chain(*arm))
    for seed in config.seeds:
        for variant, reward in trained:
            last = before(variant, reward)
            needs = [of[seed] if last[0] == "base" else f"train {arm_name(*last)} seed {seed}"]
            name = f"train {arm_name(variant, reward)} seed {seed}"
            at = {"variant": variant, "reward": reward, "seed": seed}
            planned.append(job(name, "02_train", [("train", *at.values())], needs, **at))
    evaluations = []
    for variant, reward in config.arms if config.seeds else ():
        arm = arm_name(variant, reward)
        needs = [f"train {arm} seed {seed}" for seed in config.seeds] if variant != "base" else []
        measured = stages.measurements(config)
        units = [(stage, variant, reward, seed) for stage in measured for seed in config.seeds]
        at = {"variant": variant, "reward": reward}
        needs = needs or list(dict.fromkeys(of.values()))
        evaluations.append(job(f"evaluate {arm}", "03_evaluate", units, needs, **at))
    needs = tuple(job.name for job in evaluations)
    tables = Job("tables", call=partial(write_tables, whole, folder / "tables"), needs=needs)
    variants = {variant for variant, _ in config.arms}
    drawn = figures(config.preset, variants, folder, folder / "notebooks", (tables.name,))
    return [*planned, *evaluations, tables, *drawn]


def run(
    config: RunConfig,
    plan: Sequence[Job],
    workers: int | None = None,
    *,
    report: Callable[[str], object] = print,
) -> list[Outcome]:
    """Run the plan of a study in results/local/<preset>, and return one outcome a job.

    Raises BusyError if another command is writing there, StudyError if a job failed.
    """
    folder, own = local(config.preset), _own(config)
    with only_here(folder):
        path = _preset(own, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace.write(path, _text(own).encode())
        return jobs.run(plan, workers, report=report)


def _own(config: RunConfig) -> RunConfig:
    """The study of those replicates that were not merged."""
    there = merged(config)
    seeds = tuple(seed for seed in config.seeds if seed not in there)
    study = config.study.model_copy(update={"seeds": seeds})
    return config.model_copy(update={"study": study})


def _text(config: RunConfig) -> str:
    return yaml.safe_dump(config.flat(), sort_keys=False)


def _preset(config: RunConfig, folder: Path) -> Path:
    return folder / "configs" / f"{hashlib.sha256(_text(config).encode()).hexdigest()[:16]}.yaml"


def figures(
    preset: str, variants: Iterable[str], folder: Path, notebooks: Path, needs: tuple[str, ...] = ()
) -> list[Job]:
    """The jobs that draw every figure of folder/tables into folder/figures."""
    drawn = (*FIGURES, HYBRIDS) if compares_hybrids(variants) else FIGURES
    return [
        Job(
            name=f"figures {source}",
            notebook=NOTEBOOKS / f"{source}.ipynb",
            parameters={"preset": preset, "results": str(folder)},
            output=notebooks / f"{source}.ipynb",
            needs=needs,
        )
        for source in drawn
    ]


def describe(config: RunConfig, preset: str) -> str:
    """A Markdown table of every parameter; those that differ from `preset` come first, bold."""
    usual, values = configuration.load_config(preset).flat(), config.flat()
    changed = [name for name in values if values[name] != usual[name]]
    rows = [(f"**{name}**", f"**{values[name]}**", usual[name]) for name in changed]
    rows += [(name, values[name], "") for name in values if name not in changed]
    return markdown.table(["parameter", "value", "instead of the preset's"], rows)


def summary(jobs: Sequence[Job]) -> str:
    """The number of jobs of each kind: 12 jobs: 1 base, 4 train, ..."""
    kinds = Counter(job.kind for job in jobs)
    return f"{len(jobs)} jobs: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def outline(jobs: Sequence[Job], workers: int) -> str:
    """A line a kind of job: how many are done and to run, and how long that may take if such
    notebooks were executed on this machine before."""
    lines, left, unknown = [], 0.0, False
    for kind in dict.fromkeys(job.kind for job in jobs):
        those = [job for job in jobs if job.kind == kind]
        todo = [job for job in those if not job.unchanged()]
        runs = [metadata_of(job.output) for job in those if job.output]
        past = [run["duration"] for run in runs if run.get("duration")]
        line = f"{kind}: {len(those) - len(todo)} of {len(those)} done, {len(todo)} to run"
        if todo and past:
            seconds = fmean(past) * len(todo) / min(workers, len(todo))
            left += seconds
            line += f", about {duration(seconds)}"
        elif todo and todo[0].notebook:
            unknown = True
        lines.append(line)
    rest = ", and what was never run here" if unknown else ""
    return "\n".join([*lines, f"in all: about {duration(left)}{rest}"])
