"""Pretraining: the loss, the optimiser, checkpoints, and weights that are committed."""

import hashlib
import inspect
import shutil
from pathlib import Path

import pytest
import torch
from tiny import save_random, tiny
from torch.optim import _muon

from hybridlib.evaluation import respond
from hybridlib.publish import release
from hybridlib.store.stage import Given
from hybridlib.study import collect, keys, stages
from hybridlib.tasks.base_text import corpus
from hybridlib.training import loading, pretrain

NEWTON_SCHULZ = _muon._zeropower_via_newtonschulz  # before any test replaces it


def documents(tokenizer, count: int = 6) -> list[tuple[list[int], list[int]]]:
    config = tiny()
    found = corpus(3, count, Given(**config.shares.model_dump()))
    return [
        (tokenizer(a)["input_ids"], tokenizer(b, add_special_tokens=False)["input_ids"])
        for a, b in found
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("base"), tiny(layers=2))


# --- the loss --------------------------------------------------------------------------------


def test_text_loss_is_the_loss_of_transformers(base: Path):
    model, tokenizer = loading.load_base(base).double(), loading.load_tokenizer(base)
    docs = documents(tokenizer)
    length = max(len(c) + len(t) for c, t in docs)
    ids, labels, mask = [], [], []
    for context, text in docs:  # padded on the left, where text_loss pads on the right
        pad = length - len(context) - len(text)
        ids.append([tokenizer.pad_token_id] * pad + context + text)
        labels.append([-100] * (pad + len(context)) + text)
        mask.append([0] * pad + [1] * (length - pad))
    theirs = model(
        input_ids=torch.tensor(ids), labels=torch.tensor(labels), attention_mask=torch.tensor(mask)
    ).loss
    # float32 in both: logits are cast before the cross entropy
    assert pretrain.text_loss(model, docs).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_text_loss_is_what_a_loop_over_tokens_finds(base: Path):
    model, tokenizer = loading.load_base(base), loading.load_tokenizer(base)
    docs = documents(tokenizer)
    total, count = 0.0, 0
    for context, text in docs:
        for t, token in enumerate(text):
            logits = model(input_ids=torch.tensor([context + text[:t]])).logits[0, -1].double()
            total += (logits.logsumexp(0) - logits[token]).item()
            count += 1
    assert pretrain.text_loss(model, docs, reduction="sum").item() == pytest.approx(total, rel=1e-5)
    assert pretrain.text_loss(model, docs).item() == pytest.approx(total / count, rel=1e-5)


def test_text_loss_knows_nothing_of_the_neighbours(base: Path):
    model, tokenizer = loading.load_base(base), loading.load_tokenizer(base)
    docs = documents(tokenizer)
    apart = sum(pretrain.text_loss(model, [doc], reduction="sum").item() for doc in docs)
    together = pretrain.text_loss(model, docs, reduction="sum").item()
    assert together == pytest.approx(apart, rel=1e-5)


# --- pretraining -----------------------------------------------------------------------------


def test_the_same_seed_pretrains_the_same_base_and_another_does_not(tmp_path: Path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        pretrain.pretrain(keys.base(tiny(), seed), tmp_path / name)
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_pretraining_teaches(tmp_path: Path):
    spec = keys.base(tiny(base_steps=60, base_batch=8), 0)
    pretrain.pretrain(spec, tmp_path)
    tokenizer = loading.load_tokenizer(tmp_path / "model")
    docs = documents(tokenizer, 40)
    untrained = pretrain.organism(spec.given, tokenizer)
    with torch.no_grad():
        before = pretrain.text_loss(untrained, docs).item()
        after = pretrain.text_loss(loading.load_base(tmp_path / "model"), docs).item()
    assert after < before - 1


class Killed(BaseException):
    pass


def test_a_killed_pretraining_ends_where_it_would_have(tmp_path: Path, monkeypatch, capsys):
    """The kill is behind a checkpoint (40) and behind lines of the log (44 to 52)."""
    spec = keys.base(tiny(base_steps=60), 0)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    pretrain.pretrain(spec, whole)
    monkeypatch.setattr(pretrain, "CHECKPOINT_EVERY", 20)
    schedule = pretrain._schedule

    def kill(step: int, steps: int) -> float:
        if step == 54:
            raise Killed
        return schedule(step, steps)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_schedule", kill)
        with pytest.raises(Killed):
            pretrain.pretrain(spec, cut)
    kept = [path.name for path in (cut / "checkpoints").iterdir()]
    assert kept == ["000040.safetensors"]
    (cut / "checkpoints" / "draft.safetensors").write_bytes(b"half a checkpoint")
    capsys.readouterr()
    pretrain.pretrain(spec, cut)
    assert "goes on from its checkpoint at step 40" in capsys.readouterr().out
    for name in ("model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert (cut / "loss.csv").read_text() == (whole / "loss.csv").read_text()


@pytest.mark.parametrize("fast", [True, False])
def test_every_machine_pretrains_an_organism_by_the_same_algorithm(fast, tmp_path, monkeypatch):
    """Muon's matrices in float32, all else, too, whether bfloat16 is fast or not."""
    spec, ours, iterated = keys.base(tiny(), 0), pretrain.orthogonal, []
    (tmp_path / "plain").mkdir(), (tmp_path / "this").mkdir()
    pretrain.pretrain(spec, tmp_path / "plain")

    def watched(*given):
        found = ours(*given)
        iterated.append((given[0].dtype, found.dtype, torch.is_autocast_enabled("cpu")))
        return found

    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", NEWTON_SCHULZ)  # as in a new process
    monkeypatch.setattr(pretrain, "orthogonal", watched)
    for module in (pretrain, loading):
        monkeypatch.setattr(module, "fast_at_bf16", lambda: fast)
    pretrain.pretrain(spec, tmp_path / "this")
    matrices = 7  # of the one layer: four of attention, three behind it
    steps = spec.given.base_steps
    assert iterated == [(torch.float32, torch.float32, False)] * matrices * steps
    weights = (
        (tmp_path / n / "model" / "model.safetensors").read_bytes() for n in ("plain", "this")
    )
    assert next(weights) == next(weights)


# --- committed weights -----------------------------------------------------------------------


def commit(artifacts: dict[str, Path], folder: Path) -> None:
    """As `make publish` commits a base: its weights in float16."""
    release._copy(artifacts, folder, folder.with_name("of an earlier time"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_base_restored_from_half_precision_is_the_pretrained_one(tmp_path: Path):
    for name in ("pretrained", "committed", "restored"):
        (tmp_path / name).mkdir()
    pretrain.pretrain(keys.base(tiny(), 0), tmp_path / "pretrained")
    parts = {name: tmp_path / "pretrained" / name for name in ("model", "loss.csv")}
    commit(parts, tmp_path / "committed")
    loading.restore(tmp_path / "committed", tmp_path / "restored")
    restored, pretrained = (contents(tmp_path / name) for name in ("restored", "pretrained"))
    assert restored == pretrained and len(restored) > 4
    assert loading.load_base(tmp_path / "restored" / "model").dtype == torch.float32
    small, large = (
        (tmp_path / name / "model" / "model.safetensors").stat().st_size
        for name in ("committed", "restored")
    )
    assert small < 0.6 * large


def test_a_study_takes_a_committed_base_unless_a_fresh_one_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLIB_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(keys, "committed", lambda preset: tmp_path / "results" / preset)
    monkeypatch.setattr(respond, "GATE_PER_CELL", 1)
    made, make = [], pretrain.pretrain
    monkeypatch.setattr(pretrain, "pretrain", lambda *a: made.append(1) or make(*a))
    config, fresh = tiny(), tiny(fresh_bases=True)
    before = keys.base(config, 0)
    pretrained = stages.base(config, 0)
    place = keys.committed_base(before)
    assert place.parts[-4:-1] == ("organism", "artifacts", "bases") and place.name == before.key
    found = collect.artifacts(tiny(commit_weights=True, variants="base"))
    bases = {name: path for name, path in found.items() if name.startswith("bases/")}
    commit(bases, tmp_path / "results" / "organism" / "artifacts")

    spec = keys.base(config, 0)
    held = (place / "model" / "model.safetensors").read_bytes()
    assert spec.weights == hashlib.sha256(held).hexdigest() and before.weights is None
    assert spec.key != before.key and keys.committed_base(spec) == place
    assert keys.base(fresh, 0) == before, "another recipe is another base"
    assert keys.base(config, 1).weights is keys.base(tiny(base_steps=5), 0).weights is None
    restored = stages.base(config, 0)
    assert restored != pretrained and len(made) == 1
    names = ("model/model.safetensors", "model/tokenizer.json", "loss.csv", "gate.csv")
    ours, theirs = contents(restored), contents(pretrained)
    assert all(ours[name] == theirs[name] for name in names)
    shutil.rmtree(pretrained)
    assert stages.base(fresh, 0) == pretrained and len(made) == 2
    assert contents(pretrained)["model/model.safetensors"] == ours["model/model.safetensors"]


# --- the optimiser ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (24, 24)])
def test_muon_in_float32_is_torchs_own_but_for_its_rounding(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    coefficients = inspect.signature(torch.optim.Muon).parameters["ns_coefficients"].default
    theirs = NEWTON_SCHULZ(gradient, coefficients, 5, 1e-7).float()
    ours = pretrain.orthogonal(gradient, coefficients, 5, 1e-7)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)
    assert list(inspect.signature(NEWTON_SCHULZ).parameters) == [
        "grad", "ns_coefficients", "ns_steps", "eps"
    ]  # fmt: skip
