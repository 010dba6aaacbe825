"""A configuration and a run store with nothing in them, for tests of what only arranges jobs."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest

import hybridlib
from hybridlib import study
from hybridlib.publish import release
from hybridlib.store import paths
from hybridlib.store.errors import OneLineError
from hybridlib.study import grid

SOURCES = ("00_study", "01_base", "02_train", "03_evaluate", *grid.FIGURES, grid.HYBRIDS)
ARMS = (
    ("base", "none"),
    ("rl", "rule"),
    ("rl", "model"),
    ("sft", "none"),
    ("two_stage", "rule"),
    ("two_stage", "model"),
)


@dataclass(frozen=True)
class Config:
    preset: str = "organism"
    arms: tuple[tuple[str, str], ...] = ARMS
    seeds: tuple[int, ...] = (0, 1)
    study: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(beside="", workers=0))

    def flat(self) -> dict[str, object]:
        return {"preset": self.preset, "seeds": len(self.seeds)}


@dataclass
class Project:
    """A project in a folder of its own: stand-in notebooks, and what of the store is done."""

    root: Path
    config: Config = field(default_factory=Config)
    done: set[tuple] = field(default_factory=set)
    version: int = 1
    artifacts: dict[str, Path] = field(default_factory=dict)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Make hybridlib find this project instead of the real one."""
        runs, config = ModuleType("hybridlib.study.stages"), ModuleType("hybridlib.config")
        runs.is_done = lambda config, *unit: unit in self.done
        runs.stage_key = lambda config, *unit: f"{unit}{self.version}"
        runs.measurements = lambda config: {"evaluate": None, "prefill": None}
        runs.write_tables = lambda config, folder: folder.mkdir(parents=True, exist_ok=True)
        runs.assets_used = lambda config: ["smollm2"]
        runs.artifacts = lambda config, seed: self.artifacts
        config.ParameterError = type("ParameterError", (OneLineError, ValueError), {})
        config.load_config = self._load
        config.STAGE_VERSIONS = {"train": 1}
        for room, name, module in ((study, "stages", runs), (hybridlib, "config", config)):
            patch.setattr(room, name, module, raising=False)
            patch.setitem(sys.modules, f"{room.__name__}.{name}", module)
        for module in (paths, release):
            patch.setattr(module, "PROJECT", self.root)
        for module in (paths, grid):
            patch.setattr(module, "NOTEBOOKS", self.root / "notebooks")
        (self.root / "notebooks").mkdir(parents=True)
        for name in SOURCES:
            self.source(name, "print('ran')")

    def _load(self, preset: str, **overrides: object) -> Config:
        for name in overrides:
            if name != "seeds":
                error = sys.modules["hybridlib.config"].ParameterError
                raise error(f"there is no parameter {name!r}, nearest is 'seeds'")
        return self.config

    def source(self, name: str, code: str) -> None:
        names = ("preset", "variant", "reward", "seed", "seeds", "results")
        parameters = "\n".join(f"{name} = ''" for name in names)
        nbformat.write(notebook(parameters, code), self.root / "notebooks" / f"{name}.ipynb")


def notebook(parameters: str, source: str) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell
    cells = [cell(parameters, metadata={"tags": ["parameters"]}), cell(source)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
