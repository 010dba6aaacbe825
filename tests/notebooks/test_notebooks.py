"""Notebooks: static rules for all of them, and the figure notebooks run on invented tables."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.cli import _resolve_type
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from hybridlib.figures.registry import figures
from hybridlib.store.errors import ParameterError

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
FIGURES: dict[str, list[str]] = {}
for _declared in figures().values():
    FIGURES.setdefault(_declared.notebook, []).append(_declared.name)
notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def parameters(path: Path) -> list[nbformat.NotebookNode]:
    code = cells(path, "code")
    return [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]


def test_the_figure_notebooks_are_there():
    assert set(FIGURES) <= {path.stem for path in NOTEBOOKS}


@notebook
def test_source_is_clean(path):
    node = nbformat.read(path, as_version=4)
    nbformat.validate(node)
    assert node.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in node.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.search("[a-z]", name) for name in ids), "cell ids are names, so they stay"
    for cell in cells(path, "code"):
        assert not cell.outputs and cell.execution_count is None
        assert cell.source.strip()
    assert node.cells[0].cell_type == "markdown" and node.cells[0].source.startswith("# ")


@notebook
def test_nothing_hangs_on_a_machine_or_a_folder(path):
    text = path.read_text(encoding="utf-8")
    for word in ("sys.path", "os.chdir", "%cd", "getcwd", "/home/", "/root/", "/tmp/", "/Users/"):
        assert word not in text
    code = "\n".join(cell.source for cell in cells(path, "code"))
    assert not re.search(r"[\"']\.\.?/", code), "a path that hangs on where the kernel started"


@notebook
def test_one_parameters_cell_that_papermill_can_explain(path):
    (cell,) = parameters(path)
    before = cells(path, "code")[: cells(path, "code").index(cell)]
    for statement in ast.parse("\n".join(other.source for other in before)).body:
        assert isinstance(statement, ast.ImportFrom), "parameters come first"
    lines = [line for line in cell.source.splitlines() if line.strip()]
    known = papermill.inspect_notebook(str(path))
    assert len(known) == len(lines)
    for line in lines:
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.AnnAssign), f"not `name: type = value  # help`: {line}"
        ast.literal_eval(statement.value)
        found = known[statement.target.id]
        assert found["help"].strip() and found["help"].strip() in line
        assert found["inferred_type_name"] == ast.unparse(statement.annotation)
        assert ast.literal_eval(found["default"]) == ast.literal_eval(statement.value)


@notebook
def test_readers_are_told_what_they_see(path):
    told = cells(path, "markdown")
    assert len(told) >= 3 and sum(len(cell.source) for cell in told) > 500


@pytest.mark.parametrize("name", FIGURES)
def test_numbers_are_not_typed_by_hand(name):
    for path in NOTEBOOKS:
        if path.stem == name:
            for cell in cells(path, "markdown"):
                told = cell.source.replace("95% interval", "")
                assert not re.search(r"\d\s?%|\d+ points", told), told


@pytest.fixture(scope="module")
def results(compared, population, tmp_path_factory) -> Callable[[str], Path]:
    """Tables from which a notebook can draw all its figures: those of every variant, with sweeps
    and public requests; for the verdicts those of drawn recipes."""
    folders = {}
    for tables in (compared, population):
        folders[tables.folder] = tmp_path_factory.mktemp("results")
        shutil.copytree(tables.folder / "tables", folders[tables.folder] / "tables")
    return lambda name: folders[(population if name == "07_verdicts" else compared).folder]


def executed(name: str, results: Path, folder: Path, more: str = "pass") -> list:
    """The outputs of a notebook that is executed on tables, and then `more` code."""
    (source,) = (path for path in NOTEBOOKS if path.stem == name)
    node = nbformat.read(source, as_version=4)
    node.cells.append(nbformat.v4.new_code_cell(more))
    nbformat.write(node, folder / "source.ipynb")
    found = papermill.execute_notebook(
        str(folder / "source.ipynb"),
        str(folder / "executed.ipynb"),
        parameters={"results": str(results)},
        cwd=str(folder),
        progress_bar=False,
    )
    outputs = [out for cell in found.cells for out in cell.get("outputs", [])]
    assert {out.output_type for out in outputs} == {"display_data"}, "no warnings, no bare results"
    return outputs


@pytest.mark.parametrize("name", FIGURES)
def test_figure_notebook_runs_on_tables_alone(name, results, tmp_path):
    results = results(name)
    check = "import sys\nassert 'torch' not in sys.modules"
    outputs = executed(name, results, tmp_path, check)
    drawn = {path.name for path in (results / "figures").iterdir()}
    assert {f"{one}.png" for one in FIGURES[name]} <= drawn
    assert {Path(one).suffix for one in drawn} == {".png"}

    pages = [out.data.get("text/html", "") for out in outputs]
    images = [at for at, page in enumerate(pages) if "<img" in page]
    alts = [re.search('alt="([^"]*)"', pages[at])[1] for at in images]
    assert len(alts) == len(FIGURES[name]) and all(len(alt) > 80 for alt in alts)
    for at, following in zip(images, [*images[1:], len(pages)], strict=True):
        assert any("<table" in page for page in pages[at:following]), "no table under a figure"
    for text in (out.data["text/markdown"] for out in outputs if "text/markdown" in out.data):
        assert not re.search(r"\bnan\b|None\b|: ?\.|  ", text), text
    assert not any(re.search(r">(nan|None)<", page) for page in pages)
    assert str(results) not in json.dumps([dict(out.data) for out in outputs])


def test_a_section_that_the_tables_cannot_fill_is_left_out(few, tmp_path):
    """What belongs to some presets only is told where it was measured, and not mentioned else."""
    lacking = ("prefill", "judges", "identifier", "usage", "beside", "snapshots", "hacks")
    absent = shutil.ignore_patterns(*(f"{name}.csv" for name in lacking))
    shutil.copytree(few.folder / "tables", tmp_path / "tables", ignore=absent)
    for name in ("04_harmlessness", "05_readability", "07_verdicts"):
        outputs = executed(name, tmp_path, tmp_path)
        told = [out.data["text/markdown"] for out in outputs if "text/markdown" in out.data]
        headed = [text.strip().splitlines()[0] for text in told if text.strip().startswith("#")]
        assert headed == (["### How right each reward is"] if name[1] == "4" else [])
        assert not any(re.search(r"\bnan\b", text) for text in told)
        if name == "07_verdicts":
            assert any(">descriptive<" in out.data.get("text/html", "") for out in outputs)


def test_misspelt_parameter_ends_at_once(results, tmp_path):
    (source,) = (path for path in NOTEBOOKS if path.stem == "05_readability")
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'results'"):
        papermill.execute_notebook(
            str(source),
            str(tmp_path / "executed.ipynb"),
            parameters={"result": str(results("05_readability"))},
            progress_bar=False,
        )


def given(name: str, **texts: str) -> dict:
    """The names of a notebook once it has read what `papermill -p NAME TEXT` gives it."""
    (source,) = (path for path in NOTEBOOKS if path.stem == name)
    values = {parameter: _resolve_type(text) for parameter, text in texts.items()}
    node = parameterize_notebook(load_notebook_node(str(source)), values)
    code = [cell.source for cell in node.cells if cell.cell_type == "code"]
    (reads,) = (at for at, text in enumerate(code) if "notebook_parameters(In" in text)
    names = {"In": code[:reads]}
    for text in code[: reads + 1]:
        exec(text, names)
    return names


@pytest.mark.parametrize("text, value", [("false", False), ("False", False), ("true", True)])
def test_papermill_hands_a_truth_over_as_text(text, value):
    assert given("00_study", preset="smoke", dry_run=text)["dry_run"] is value
    assert given("00_study", preset="smoke", thought=text)["config"].base.thought is value


def test_papermill_hands_over_what_a_file_would_say():
    texts = {"seeds": "3", "variants": "base, sft", "learning_rates": "{sft: 1e-2}", "kl": "1e-3"}
    config = given("00_study", preset="smoke", steps="5", **texts)["config"]
    assert (config.seeds, config.variants) == ((0, 1, 2), ("base", "sft"))
    assert (config.train.learning_rates, config.train.kl) == ({"sft": 0.01}, 0.001)
    config = given("03_evaluate", preset="smoke", variant="sft", reward="none", seeds="[7]")
    assert config["config"].seeds == (7,)
    assert given("02_train", preset="smoke", seed="4")["config"].seeds == (4,)


@pytest.mark.parametrize(
    "name, texts",
    [
        ("00_study", {"dry_run": "maybe"}), ("00_study", {"dry_run": ""}),
        ("00_study", {"dry_run": "1"}), ("00_study", {"steps": "3.0"}), ("00_study", {"kl": "nan"}),
        ("00_study", {"seeds": "1:5"}), ("00_study", {"variants": "[rl, sft"}),
        ("00_study", {"preset": "123"}), ("00_study", {"preset": "../organism"}),
        ("01_base", {"gate": "off"}), ("02_train", {"seed": "x"}), ("02_train", {"seed": "1.5"}),
        ("02_train", {"seed": "-1"}), ("02_train", {"variant": "rl/keyword", "reward": "none"}),
        ("02_train", {"reward": "3"}), ("03_evaluate", {"per_cell": "0"}),
        ("04_harmlessness", {"results": "123"}), ("05_readability", {"preset": ".."}),
        ("08_hybrids", {"preset": "3"}), ("explore", {"preset": "../results/organism"}),
    ],
)  # fmt: skip
def test_what_papermill_hands_over_and_cannot_be_is_one_line(name, texts):
    with pytest.raises(ParameterError, match="|".join(texts)) as caught:
        given(name, **texts)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", FIGURES)
def test_a_notebook_shows_the_figures_that_are_declared_for_it(name):
    (source,) = (path for path in NOTEBOOKS if path.stem == name)
    shown = re.findall(
        r'figure\(tables, "(\w+)"\)', "".join(c.source for c in cells(source, "code"))
    )
    assert sorted(shown) == sorted(FIGURES[name])


@pytest.mark.parametrize("name", FIGURES)
def test_the_first_idea_comes_within_a_screen(name):
    (source,) = (path for path in NOTEBOOKS if path.stem == name)
    before = cells(source, "code")[:2]
    assert sum(len(cell.source.splitlines()) for cell in before) <= 20
    order = [cell.cell_type for cell in nbformat.read(source, as_version=4).cells[:4]]
    assert order == ["markdown", "code", "code", "markdown"]
