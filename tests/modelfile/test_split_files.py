"""A model in several files is that model in one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ggserve.errors import ModelFileError
from ggserve.model.catalog import Catalog, model_bytes
from ggserve.model.gguf_model import GGUFModel, SamplingParams
from ggserve.model.inspect import describe
from ggserve.modelfile.accepts.ctransformers import ctransformers_objection
from ggserve.modelfile.convert import convert
from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.norms import check_norms
from tests.modelfile import tiny_gguf as tiny

Change = Callable[[tiny.Spec], object]


def test_parts_are_read_as_the_whole(tmp_path: Path) -> None:
    spec = tiny.llama()
    whole, paths = read_gguf(spec.write(tmp_path / "tiny.gguf")), tiny.in_parts(spec, tmp_path)
    joined = read_gguf(paths[0])
    assert joined.paths == paths
    assert joined.size == model_bytes(paths[0]) == sum(path.stat().st_size for path in paths)
    assert joined.tensors.keys() == whole.tensors.keys()
    for tensor in joined.tensors.values():
        content = paths[tensor.part].read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
        assert content == spec.tensors[tensor.name].content
    assert all(joined.get(key) is not None for key in whole.fields)
    assert dict(describe(paths[0]))["size"].endswith(" in 3 files")


def test_parts_answer_as_the_whole(tmp_path: Path) -> None:
    spec = tiny.llama()
    answers = []
    for path in (spec.write(tmp_path / "tiny.gguf"), tiny.in_parts(spec, tmp_path)[0]):
        model = GGUFModel(path, engine="auto" if "of" in path.name else "llama.cpp", parallel=1)
        assert (model.name, model.engine_name) == ("tiny", "llama.cpp")
        answers.append(asyncio.run(_tokens(model)))
        model.close()
    assert answers[0] == answers[1] != []


def test_parts_are_listed_as_one_model(tmp_path: Path) -> None:
    first = tiny.in_parts(tiny.llama(), tmp_path)[0]
    assert [(listed.name, listed.path) for listed in Catalog(tmp_path).models()] == [("tiny", first)]


def test_only_llama_cpp_runs_parts(tmp_path: Path) -> None:
    file = read_gguf(tiny.in_parts(tiny.llama(), tmp_path)[0])
    assert ctransformers_objection(file) == "split.count: the model is in several files"
    with pytest.raises(ModelFileError, match=r"cannot be converted for ctransformers: split\.count"):
        convert(file.path, tmp_path / "new.gguf", progress=False)


async def _tokens(model: GGUFModel) -> list[int]:
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, logprobs=0)
    return [token.id for delta in [d async for d in model.complete("a b c", params)] for token in delta.tokens]


def put(key: str, kind: int, content: object) -> Change:
    return lambda spec: spec.fields.__setitem__(key, (kind, content))


@pytest.mark.parametrize(
    ("part", "change", "error"),
    [
        (0, put("split.count", tiny.U16, 4), "tiny-00001-of-00003.gguf: is one of 4 parts by its metadata"),
        (0, put("split.count", tiny.STRING, "3"), "tiny-00001-of-00003.gguf: split.count is not an integer"),
        (0, put("split.no", tiny.U16, 1), "tiny-00001-of-00003.gguf: is not part 1 of 3 by its metadata"),
        (0, put("split.tensors.count", tiny.I32, 2), "tiny-00001-of-00003.gguf: its 3 parts have 21 tensors, not 2"),
        (1, put("split.no", tiny.U16, 2), "tiny-00002-of-00003.gguf: is not part 2 of 3 by its metadata"),
        (2, lambda spec: spec.fields.clear(), "tiny-00003-of-00003.gguf: is not part 3 of 3 by its metadata"),
        (
            2,
            lambda spec: spec.tensors.setdefault("output.weight", tiny.f32(1)),
            "tiny-00003-of-00003.gguf: tensor 'output.weight' is also in another part",
        ),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, part: int, change: Change, error: str) -> None:
    paths = tiny.in_parts(tiny.llama(), tmp_path, change={part: change})
    with pytest.raises(ModelFileError, match=error):
        read_gguf(paths[0])


def test_a_part_that_is_cut_off_or_missing_or_not_the_first(tmp_path: Path) -> None:
    paths = tiny.in_parts(tiny.llama(), tmp_path)
    with pytest.raises(ModelFileError, match=r"use the first, tiny-00001-of-00003\.gguf"):
        read_gguf(paths[1])
    paths[1].write_bytes(paths[1].read_bytes()[:-64])
    with pytest.raises(ModelFileError, match=r"tiny-00002-of-00003\.gguf: truncated"):
        read_gguf(paths[0])
    paths[1].unlink()
    with pytest.raises(ModelFileError, match=r"tiny-00002-of-00003\.gguf: no such file"):
        read_gguf(paths[0])


def test_norms_are_looked_for_in_their_part(tmp_path: Path) -> None:
    spec = tiny.llama()
    check_norms(read_gguf(tiny.in_parts(spec, tmp_path)[0]))
    spec.tensors["blk.1.ffn_norm.weight"].content = b"\xff" * 256
    with pytest.raises(ModelFileError, match=r"blk\.1\.ffn_norm\.weight has values that are not finite"):
        check_norms(read_gguf(tiny.in_parts(spec, tmp_path)[0]))
