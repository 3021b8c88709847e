"""Files that go along with a model: a projector that makes embeddings of images, a LoRA adapter. Both are GGUF, and
only llama.cpp knows them."""

from pathlib import Path

from ggserve.errors import ModelFileError
from ggserve.hub.pick import models, projector
from ggserve.modelfile.file import ModelFile
from ggserve.modelfile.gguf import GGUFFile, read_gguf

_PROJECTOR = "clip"  # its general.architecture


def checked_projector(path: Path) -> Path:
    """The path of a sound projector of images. Raises ModelFileError."""
    file = read_gguf(path)
    if (found := file.architecture) != _PROJECTOR:
        raise ModelFileError(f"MMPROJ_PATH={path.name}: of architecture {found!r}, and a projector is 'clip'")
    if not _sees(file):
        raise ModelFileError(f"MMPROJ_PATH={path.name}: a projector of sounds, and only images are supported")
    return path


def checked_adapter(path: Path, model: ModelFile) -> Path:
    """The path of a sound LoRA adapter for `model`, whose matrices have the right shapes. Raises ModelFileError."""
    adapter = read_gguf(path)
    if adapter.get("general.type") != "adapter" or adapter.get("adapter.type") != "lora":
        raise ModelFileError(f"LORA_PATH={path.name}: no LoRA adapter (general.type, adapter.type)")
    if adapter.architecture != model.architecture:
        raise ModelFileError(
            f"LORA_PATH={path.name}: made for {adapter.architecture!r}, and {model.path.name} is {model.architecture!r}"
        )
    for name, tensor in adapter.tensors.items():
        matrix, _, side = name.rpartition(".lora_")
        base, pair = model.tensors.get(matrix), adapter.tensors.get(f"{matrix}.lora_{'b' if side == 'a' else 'a'}")
        if base is None or pair is None or side not in ("a", "b"):
            raise ModelFileError(f"LORA_PATH={path.name}: {name} belongs to no matrix of {model.path.name}")
        a, b = (tensor, pair) if side == "a" else (pair, tensor)
        if (a.shape[0], b.shape[1:2]) != (base.shape[0], base.shape[1:2]) and matrix != "token_embd.weight":
            raise ModelFileError(f"LORA_PATH={path.name}: {matrix} has other sizes in {model.path.name}")
    return path


def projector_beside(path: Path) -> Path | None:
    """The projector of images that belongs to a model: in its folder, where it is the only model; in a hub's cache, in
    its repository. Raises ModelFileError where the file is none."""
    repository = next((folder for folder in path.parents if folder.parent.name == "snapshots"), None)
    root = repository or path.parent
    files = root.rglob("*.gguf") if repository else root.glob("*.gguf")
    sizes = {file.relative_to(root).as_posix(): file.stat().st_size for file in files if file.is_file()}
    model = path.relative_to(root).as_posix()
    found = projector(model, sizes)
    belongs = found and (repository or [*models(sizes)] == [model])
    return root / found if found and belongs and _sees(read_gguf(root / found)) else None


def _sees(file: GGUFFile) -> bool:
    """Whether it makes embeddings of images, and not only of sounds."""
    return file.get("clip.has_vision_encoder") is True
