"""A tiny model in a folder, and vLLM and transformers with it and with the embedded model, in float32.

vLLM has an environment of its own (`make test-vllm`); elsewhere only what needs no vLLM is run here.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rerank.models import resolve_model_name
from rerank.tasks import BackendOptions
from tests.backends.conftest import make_model, make_tokenizer

if TYPE_CHECKING:
    from rerank.backends.hf import Hf
    from rerank.backends.vllm import Vllm

collect_ignore = (
    []
    if find_spec("vllm")
    else ["test_vllm.py", "test_vllm_embedded.py", "test_vllm_server.py", "test_vllm_trained.py"]
)

OPTIONS = BackendOptions(dtype="float32")
#: Heads as wide as vLLM's kernels want them.
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "initializer_range": 0.2,
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights and a tokenizer of bytes; 512 positions."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model: Any = make_model(**SHAPE)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def started() -> dict[Path, Vllm]:
    """Engines by folder; one at a time is alive."""
    return {}


@pytest.fixture
def vllm(tiny: Path, started: dict[Path, Vllm]) -> Vllm:
    return _alive(started, tiny, OPTIONS)


def _alive(started: dict[Path, Vllm], folder: Path, options: BackendOptions) -> Vllm:
    """The engine of a folder, started again if a test loaded another one."""
    from rerank.backends.vllm import Vllm

    if folder not in started or started[folder]._stream._error:
        started[folder] = Vllm.load(folder, options)
    return started[folder]


@pytest.fixture(scope="session")
def hf(tiny: Path) -> Hf:
    from rerank.backends.hf import Hf

    return Hf.load(tiny, OPTIONS)


@pytest.fixture(scope="session")
def real() -> Path:
    """The embedded model's folder, which must have been pulled."""
    return Path(resolve_model_name("smollm2-135m"))


@pytest.fixture
def real_vllm(real: Path, started: dict[Path, Vllm]) -> Vllm:
    return _alive(started, real, BackendOptions(context_size=4096))


@pytest.fixture(scope="session")
def real_hf(real: Path) -> Hf:
    from rerank.backends.hf import Hf

    return Hf.load(real, OPTIONS)
