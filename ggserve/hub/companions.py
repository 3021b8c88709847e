"""Files that accompany a model: a projector, which makes embeddings of images, or a LoRA adapter. Both are GGUF and
llama.cpp-only."""

import logging
from pathlib import Path

from ggserve.errors import ModelFileError
from ggserve.hub.pick import identity, is_projector, models, projector
from ggserve.modelfile.accepts.projector import projector_objection
from ggserve.modelfile.file import ModelFile
from ggserve.modelfile.gguf import GGUFFile, read_gguf

log = logging.getLogger("ggserve.model")


def checked_projector(path: Path) -> Path:
    """Return the path of a valid projector of images. Raises ModelFileError."""
    if objection := projector_objection(read_gguf(path)):
        raise ModelFileError(f"MMPROJ_PATH={path.name}: {objection}")
    return path


def checked_adapter(path: Path, model: ModelFile) -> Path:
    """Return the path of a valid LoRA adapter whose matrices fit `model`. Raises ModelFileError."""
    adapter = read_gguf(path)
    if adapter.get("general.type") != "adapter" or adapter.get("adapter.type") != "lora":
        raise ModelFileError(f"LORA_PATH={path.name}: not a LoRA adapter (general.type, adapter.type)")
    if adapter.architecture != model.architecture:
        raise ModelFileError(
            f"LORA_PATH={path.name}: made for {adapter.architecture!r}, but {model.path.name} is {model.architecture!r}"
        )
    for name, tensor in adapter.tensors.items():
        matrix, _, side = name.rpartition(".lora_")
        base, pair = model.tensors.get(matrix), adapter.tensors.get(f"{matrix}.lora_{'b' if side == 'a' else 'a'}")
        if base is None or pair is None or side not in ("a", "b"):
            raise ModelFileError(f"LORA_PATH={path.name}: {name} does not belong to a matrix of {model.path.name}")
        a, b = (tensor, pair) if side == "a" else (pair, tensor)
        if (a.shape[0], b.shape[1:2]) != (base.shape[0], base.shape[1:2]) and matrix != "token_embd.weight":
            raise ModelFileError(f"LORA_PATH={path.name}: {matrix} has a different shape in {model.path.name}")
    return path


def projector_beside(model: GGUFFile) -> Path | None:
    """Return the projector that belongs to a model: one that makes embeddings of the model's length, in the model's
    folder or, in a hub's cache, its repository. If there are several models, the projector's name must name this
    one."""
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
    except ModelFileError as error:  # damaged, or a Git LFS pointer: it belongs to no model
        objection = str(error)
    if objection:
        log.warning("the projector %s is not used: %s", path, objection)
        return False
    shapes = [tensor.shape for name, tensor in file.tensors.items() if name.startswith(("mm.", "resampler."))]
    widths = {size for shape in shapes for size in shape} - {file.get("clip.vision.embedding_length")}
    return width in {*widths, file.get("clip.vision.projection_dim")}  # some users set it to another folder
