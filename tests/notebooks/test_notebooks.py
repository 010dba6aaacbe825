"""Notebooks: static rules for all of them, and the figure notebooks run on invented tables."""

import ast
import json
import re
from pathlib import Path
from unittest import mock

import nbformat
import pandas as pd
import papermill
import pytest
import synthetic
from test_plots import write as write_results

from hybridlib.evaluation import comparison, tables
from hybridlib.figures import plots
from hybridlib.figures import results as lookup

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
FIGURES = {
    "04_harmlessness": [
        "response_classes",
        "prefill_depth",
        "harm_vs_over_refusal",
        "public_requests",
        "proxy_vs_gold",
        "proxy_and_gold_by_distance",
    ],
    "05_readability": ["language_share", "language_training", "usage_advice"],
    "06_generalization": [
        "generalization",
        "generalization_by_language",
        "generalization_gaps",
        "reasoning",
    ],
    "07_verdicts": [
        "verdict_page",
        "side_by_side",
        "sensitivity",
        "learning_rates",
        "cost",
        "seconds",
    ],
    "08_hybrids": [
        "hybrids",
        "hybrids_by_compute",
        "hybrids_at_budget",
        "hybrids_along_compute",
        "hybrid_mechanism",
        "hybrid_sweeps",
    ],
}
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
def results(tmp_path_factory) -> Path:
    """Tables of every variant, sweeps and public requests: all notebooks can be drawn."""
    folder = tmp_path_factory.mktemp("results")
    with mock.patch.dict(synthetic.RATES, synthetic.HYBRIDS):
        responses = synthetic.responses(runs=tuple(synthetic.RATES))
        tables.write_tables(
            folder / "tables",
            "hybrids",
            pd.concat([responses, synthetic.public(responses)]),
            synthetic.training(flops=True),
            synthetic.cost(),
            synthetic.gate(),
            synthetic.learning_rates(),
            synthetic.runs(),
            responses[responses.variant.ne("base")].assign(flops=2e12),
            {
                "prefill": synthetic.begun(runs=tuple(synthetic.RATES)),
                "usage": synthetic.usage(runs=tuple(synthetic.RATES)),
            },
        )
    for name in ("sweep", "judges", "identifier"):
        getattr(synthetic, name)().to_csv(folder / "tables" / f"{name}.csv", index=False)
    verdicts = lookup.Results(folder).table("verdicts")
    beside = comparison.beside("hybrids", verdicts, "organism", verdicts)
    beside.to_csv(folder / "tables" / "beside.csv", index=False)
    moved = synthetic.sensitivity(verdicts)
    moved.to_csv(folder / "tables" / "sensitivity.csv", index=False)
    return folder


@pytest.mark.parametrize("name", FIGURES)
def test_figure_notebook_runs_on_tables_alone(name, results, tmp_path):
    (source,) = (path for path in NOTEBOOKS if path.stem == name)
    node = nbformat.read(source, as_version=4)
    check = (
        "import sys\nassert 'torch' not in sys.modules and 'hybridlib.figures.plots' in sys.modules"
    )
    node.cells.append(nbformat.v4.new_code_cell(check))
    nbformat.write(node, tmp_path / "source.ipynb")
    executed = papermill.execute_notebook(
        str(tmp_path / "source.ipynb"),
        str(tmp_path / "executed.ipynb"),
        parameters={"results": str(results)},
        cwd=str(tmp_path),
        progress_bar=False,
    )
    figures = {path.name for path in (results / "figures").iterdir()}
    assert {f"{one}.{kind}" for one in FIGURES[name] for kind in ("svg", "png")} <= figures

    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    assert {out.output_type for out in outputs} == {"display_data"}, "no warnings, no bare results"
    told = [out.data["text/markdown"] for out in outputs if "text/markdown" in out.data]
    images = [out.data["text/html"] for out in outputs if "<img" in out.data.get("text/html", "")]
    alts = [re.search('alt="([^"]*)"', image)[1] for image in images]
    assert len(alts) == len(FIGURES[name])
    assert all(len(alt) > 80 and re.search(r"\d", alt) for alt in alts)
    assert len(told) > len(alts)
    for text in told:
        assert not re.search(r"\bnan\b|None\b|[-+]0 points|: ?\.|\{|  ", text), text
        assert re.search(r"\d", text) or "none" in text
    assert str(results) not in json.dumps([dict(out.data) for out in outputs])


def test_misspelt_parameter_ends_at_once(results, tmp_path):
    (source,) = (path for path in NOTEBOOKS if path.stem == "05_readability")
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'results'"):
        papermill.execute_notebook(
            str(source),
            str(tmp_path / "executed.ipynb"),
            parameters={"result": str(results)},
            progress_bar=False,
        )


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_followed_by_numbers(name):
    (source,) = (path for path in NOTEBOOKS if path.stem == name)
    code = cells(source, "code")
    shown = [re.search(r"plots\.show\(plots\.(\w+)", cell.source) for cell in code]
    assert [found[1] for found in shown if found] == FIGURES[name]
    for found, following in zip(shown, [*code[1:], None], strict=True):
        if found:
            assert "say(" in following.source
            assert callable(getattr(plots, found[1]))


def test_verdicts_of_one_seed_beside_another_study_can_be_told(tmp_path):
    write_results(tmp_path, seeds=1)
    executed = papermill.execute_notebook(
        str(next(path for path in NOTEBOOKS if path.stem == "07_verdicts")),
        str(tmp_path / "executed.ipynb"),
        parameters={"results": str(tmp_path)},
        progress_bar=False,
    )
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    told = " ".join(out.data.get("text/markdown", "") for out in outputs)
    assert "With 1 seed one of them is descriptive" in told and "of one seed" in told
    assert not re.search(r"\bnan\b", told)
