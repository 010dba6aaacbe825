"""A configuration and a run store with nothing in them, for tests of what only arranges jobs."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from hybridlib import config
from hybridlib.publish import release
from hybridlib.store import paths
from hybridlib.store.errors import ParameterError
from hybridlib.study import collect, grid, stages

SOURCES = ("00_study", "01_base", "02_train", "03_evaluate", *grid.FIGURES, grid.HYBRIDS)
ARMS = (
    ("base", "none"),
    ("rl", "keyword"),
    ("rl", "model"),
    ("sft", "none"),
    ("two_stage", "keyword"),
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
        patch.setattr(config, "load_config", self._load)
        patch.setattr(stages, "is_done", lambda config, *unit: unit in self.done)
        patch.setattr(stages, "stage_key", lambda config, *unit: f"{unit}{self.version}")
        patch.setattr(grid, "_own", lambda config: config)  # nothing was merged
        measured = {"evaluate": None, "prefill": None}
        patch.setattr(stages, "measurements", lambda config: measured)
        patch.setattr(collect, "write_tables", lambda config, place: place.mkdir(exist_ok=True))
        patch.setattr(collect, "assets_used", lambda config: ["smollm2"])
        patch.setattr(collect, "artifacts", lambda config: self.artifacts)
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
                raise ParameterError(f"there is no parameter {name!r}, nearest is 'seeds'")
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
