"""Notebooks of an odd shape, and kernels that are not this interpreter's."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin import notebook

from hybridlib.store.errors import OneLineError
from hybridlib.study import notebook as nb
from hybridlib.study.jobs import Job, run

pytestmark = pytest.mark.filterwarnings("ignore")  # nbformat's, of cells without an id


def executed(path: Path, **metadata) -> dict:
    """A notebook as an execution leaves it, with a stamp; written to `path`."""
    node = notebook("x = 0", "x")
    output = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    node.cells[-1].outputs.append(output)
    node.metadata.update({"hybridlib": {"stamp": "s"}, "papermill": {"duration": 3.0}} | metadata)
    nbformat.write(node, path)
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_whole_notebook_is_read(tmp_path: Path):
    executed(path := tmp_path / "one.ipynb")
    assert nb.metadata_of(path) == {"stamp": "s", "duration": 3.0}
    assert nb.error_in(path) == "ValueError: no"
    nb.write_stamp(path, "t")
    assert nb.metadata_of(path)["stamp"] == "t"
    assert nb.cleaned(path, {}).cells


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"hybridlib": {"stamp": 7}}, {}),
        ({"hybridlib": []}, {}),
        ({"hybridlib": "s"}, {}),
        ({"hybridlib": {}}, {}),
        ({"papermill": []}, {}),
        ({"papermill": True, "hybridlib": True}, {}),
        ({"papermill": {"duration": "long"}}, {"stamp": "s"}),
        ({"papermill": {"duration": None}}, {"stamp": "s"}),
        ({"papermill": {"duration": {}}}, {"stamp": "s"}),
        ({"papermill": {"duration": float("nan")}}, {"stamp": "s"}),
        ({"papermill": {"duration": 10**400}}, {"stamp": "s"}),
        ({"papermill": {"stamp": "other"}}, {"stamp": "s"}),
    ],
)
def test_metadata_of_another_shape_are_none(tmp_path: Path, metadata, found):
    executed(path := tmp_path / "one.ipynb", **metadata)
    assert nb.metadata_of(path) == found


def odd_notebooks(node: dict) -> dict[str, bytes]:
    stamped = {"metadata": node["metadata"]}
    shapes = {
        "list": [],
        "object": {},
        "metadata alone": stamped,
        "metadata as list": {"metadata": []},
        "no metadata": {"cells": node["cells"]},
        "cells as object": node | {"cells": {}},
        "cells as string": node | {"cells": "abc"},
        "numbers for cells": node | {"cells": [1, 2]},
        "empty cells": node | {"cells": [{}]},
        "outputs as string": node | {"cells": [node["cells"][0] | {"outputs": "text"}]},
        "numbers for outputs": node | {"cells": [node["cells"][0] | {"outputs": [1]}]},
        "an error without a name": node
        | {"cells": [node["cells"][0] | {"outputs": [{"output_type": "error"}]}]},
        "of a later format": node | {"nbformat": 5},
        "null": None,
    }
    content = {name: json.dumps(shape).encode() for name, shape in shapes.items()}
    whole = json.dumps(node).encode()
    return content | {
        "zero bytes": b"",
        "zeros": bytes(4096),
        "half": whole[: len(whole) // 2],
        "no utf-8": whole.replace(b"ValueError", b"\xff\xfe"),
        "utf-16": json.dumps(node).encode("utf-16"),
        "deep": b"[" * 50_000,
        "many digits": b"1" * 50_000,
    }


def links_to_itself(path: Path) -> None:
    path.symlink_to(path)


def links_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


NAMES = [*odd_notebooks({"cells": [{}], "metadata": {}}), Path.mkdir, links_to_itself]


def lay(name, path: Path) -> None:
    if callable(name):
        name(path)
    else:
        path.write_bytes(odd_notebooks(executed(path))[name])


@pytest.mark.parametrize(
    "name", [*NAMES, links_to_nothing], ids=lambda name: getattr(name, "__name__", str(name))
)
def test_what_is_no_notebook_counts_as_not_executed(tmp_path: Path, name):
    lay(name, path := tmp_path / "one.ipynb")
    assert nb.metadata_of(path) == {}
    assert nb.error_in(path) == ""
    for use in (lambda: nb.write_stamp(path, "s"), lambda: nb.cleaned(path, {})):
        with pytest.raises(OneLineError, match=r"one\.ipynb is no executed notebook") as caught:
            use()
        assert "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
CELL = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["code", "markdown"]) | VALUES, "metadata": VALUES},
    optional={"source": VALUES, "outputs": VALUES | st.lists(VALUES), "id": VALUES},
)
NOTEBOOK = st.fixed_dictionaries(
    {"cells": st.lists(CELL | VALUES, max_size=2) | VALUES, "nbformat": st.just(4) | VALUES},
    optional={
        "nbformat_minor": st.just(5) | VALUES,
        "metadata": st.dictionaries(st.sampled_from(["hybridlib", "papermill"]), VALUES) | VALUES,
    },
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES | NOTEBOOK)
def test_no_value_as_notebook_raises_another_error(tmp_path: Path, value):
    (path := tmp_path / "one.ipynb").write_text(json.dumps(value))
    found = nb.metadata_of(path)
    assert not found or isinstance(found["stamp"], str)
    assert isinstance(nb.error_in(path), str)
    try:
        nb.write_stamp(path, "s")
    except nb.NotebookError:
        assert not found
    else:
        whole = isinstance(value["metadata"].get("papermill", {}), dict)
        assert nb.metadata_of(path).get("stamp") == ("s" if whole else None)


def test_half_a_letter_of_a_response_does_not_stop_the_stamp(tmp_path: Path):
    node = executed(path := tmp_path / "one.ipynb")
    output = {"output_type": "stream", "name": "stdout", "text": "\ud83d"}
    node["cells"][-1]["outputs"] = [output]
    path.write_text(json.dumps(node))
    nb.write_stamp(path, "t")
    assert json.loads(path.read_text())["cells"][-1]["outputs"] == [output]


def prints_its_interpreter(folder: Path) -> Path:
    source = "import os, sys; print(sys.executable, os.environ.get('FOREIGN'))"
    nbformat.write(notebook("x = 0  # a number", source), folder / "one.ipynb")
    return folder / "one.ipynb"


FOREIGN = {
    "that ends at once": {"argv": ["/bin/false"]},
    "with other variables": {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "env": {"FOREIGN": "1"},
    },
    "of no shape": [],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_kernel_of_the_same_name_is_not_used(tmp_path: Path, monkeypatch, capsys, name):
    spec = FOREIGN[name]
    if isinstance(spec, dict):
        spec = {"display_name": "Python 3", "language": "python"} | spec
    for variable in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        place = tmp_path / variable / "kernels" / "python3"
        place.mkdir(parents=True)
        (place / "kernel.json").write_text(json.dumps(spec))
        monkeypatch.setenv(variable, str(tmp_path / variable))
    nb.execute(prints_its_interpreter(tmp_path), tmp_path / "out.ipynb", {"x": 1})
    assert capsys.readouterr().out.split() == [sys.executable, "None"]


def test_a_notebook_saved_under_another_kernel_runs(tmp_path: Path, capsys):
    """As an editor names the kernel of an environment."""
    source = prints_its_interpreter(tmp_path)
    node = nbformat.read(source, as_version=4)
    node.metadata = {"kernelspec": {"name": "my env", "display_name": "my env"}}
    nbformat.write(node, source)
    nb.execute(source, tmp_path / "out.ipynb", {"x": 1})
    assert sys.executable in capsys.readouterr().out


@pytest.mark.parametrize("name", ["zero bytes", Path.mkdir], ids=["zero bytes", "mkdir"])
def test_a_job_whose_output_is_odd_is_run_again(tmp_path: Path, name):
    output = tmp_path / "out" / "one.ipynb"
    job = Job("one", prints_its_interpreter(tmp_path), {"x": 1}, output, done=lambda: True)
    output.parent.mkdir()
    lay(name, output)
    assert [o.status for o in run([job], 1, report=lambda _: None)] == ["finished"]
    assert job.unchanged()
