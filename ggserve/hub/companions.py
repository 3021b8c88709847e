"""Files that go along with a model: a projector that makes embeddings of images, a LoRA adapter. Both are GGUF, and
only llama.cpp knows them."""

import logging
from pathlib import Path

from ggserve.errors import ModelFileError
from ggserve.hub.pick import identity, is_projector, models, projector
from ggserve.modelfile.accepts.projector import projector_objection
from ggserve.modelfile.file import ModelFile
from ggserve.modelfile.gguf import GGUFFile, read_gguf

log = logging.getLogger("ggserve.model")


def checked_projector(path: Path) -> Path:
    """The path of a sound projector of images. Raises ModelFileError."""
    if objection := projector_objection(read_gguf(path)):
        raise ModelFileError(f"MMPROJ_PATH={path.name}: {objection}")
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


def projector_beside(model: GGUFFile) -> Path | None:
    """The projector of images that belongs to a model: one that makes embeddings of its length, in its folder, or in a
    hub's cache in its repository. Beside several models, its name must also say that it is this model's."""
    path = model.path
    repository = next((folder for folder in path.parents if folder.parent.name == "snapshots"), None)
    root = repository or path.parent
    files = root.rglob("*.gguf") if repository else root.glob("*.gguf")
    sizes = {file.relative_to(root).as_posix(): file.stat().st_size for file in files if file.is_file()}
    width = model.get(f"{model.architecture}.embedding_length")
    fitting = {name: sizes[name] for name in filter(is_projector, sizes) if _fits(root / name, width)}
    name = path.relative_to(root).as_posix()
    if not repository and len({identity(each) for each in models(sizes)}) > 1:
        fitting = {each: size for each, size in fitting.items() if identity(each) and identity(each) <= identity(name)}
        longest = max((len(identity(each)) for each in fitting), default=0)
        fitting = {each: size for each, size in fitting.items() if len(identity(each)) == longest}
    found = projector(name, fitting)
    return root / found if found else None


def _fits(path: Path, width: int) -> bool:
    """Return whether a file is a projector of images into embeddings of that length."""
    try:
        file = read_gguf(path)
        objection = projector_objection(file)
    except ModelFileError as error:  # damaged, or a placeholder of Git LFS: it belongs to no model
        objection = str(error)
    if objection:
        log.warning("the projector %s is not used: %s", path, objection)
        return False
    shapes = [tensor.shape for name, tensor in file.tensors.items() if name.startswith(("mm.", "resampler."))]
    widths = {size for shape in shapes for size in shape} - {file.get("clip.vision.embedding_length")}
    return width in {*widths, file.get("clip.vision.projection_dim")}  # which some set to another one
