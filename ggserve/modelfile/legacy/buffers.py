"""The number of tokens that one eval of a legacy model can take before a buffer of its loader overflows.

The legacy families of ctransformers 0.2.27 compute in buffers of 256 MiB. Only the main buffer grows: to the first
eval's memory per token, times the tokens of the current eval. Memory also grows with the number of past tokens, which
the loader ignores, and an overflow crashes the process. So the first eval must be one token at a late position, and all
evals must be short enough. The formulas follow the graphs that the families build.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.legacy.layout import Header, row_length
from ggserve.modelfile.legacy.layouts import layout_of

_LARGEST_CHUNK = 64  # tokens; larger chunks gain little and delay cancellation
_BUFFER = (256 << 20) * 98 // 100
_LARGEST_POOL = 4 << 30  # address space of the main buffer; only the used part takes memory
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class EvalLimits:
    """Limits that keep evals within the buffers. `warm_up`: evals (position, tokens) to run first, with any tokens, so
    that the main buffer grows enough."""

    context_length: int
    chunk: int  # maximum tokens per eval
    warm_up: tuple[tuple[int, int], ...] = ()
    rewinds: bool = True  # an eval can start before the end of the KV cache


@dataclass(frozen=True)
class _Costs:
    """The floats that one layer's graph needs: per token and unit of width, and per token, past token and head.

    `trans` is the size of a transposed copy of the values, in bytes per past token and unit of width. Families with
    scratch buffers split a layer into two halves with one buffer each; in the other families, all layers use the main
    buffer.
    """

    width: int
    scores: int
    trans: int
    second_half: int | None = None


_COSTS = {
    "gpt2": _Costs(46, 1, 4),
    "gptj": _Costs(32, 1, 0),
    "dolly-v2": _Costs(48, 1, 0),
    "replit": _Costs(24, 4, 2),
    "mpt": _Costs(11, 4, 2, second_half=13),
    "gptneox": _Costs(22, 1, 0, second_half=27),
    "starcoder": _Costs(21, 1, 4, second_half=25),
}
_FALCON_MAIN = {False: 160 * _MEBIBYTE, True: 256 * _MEBIBYTE}
_FALCON_SCRATCH = {
    False: (0.00029706, 92 + 32),
    True: (0.00065, 118 + 32),
}  # MiB: slope per context token and 512, and constant


def eval_limits(file: GGMLFile, context_length: int) -> EvalLimits:
    """Return the limits for `context_length` tokens. The context becomes shorter if not even single tokens fit that
    far."""
    header = file.header
    if file.family == "llama":
        return EvalLimits(context_length, _LARGEST_CHUNK)  # it measures its graph in advance
    if file.family == "falcon":
        # Each eval rewrites the values in rows as long as the text so far, so evals cannot go back.
        return EvalLimits(context_length, _falcon_chunk(header, context_length), rewinds=False)
    costs = _COSTS[file.family]
    length = _largest(context_length, lambda length: _scratch(costs, header, 1, length) <= _BUFFER)
    chunk = _largest(_LARGEST_CHUNK, lambda tokens: _scratch(costs, header, tokens, length) <= _BUFFER)
    if (last := _pool(costs, header, 1, length)) <= _BUFFER:
        # The memory per token measured at the end of the context is enough for every eval.
        grown = _largest(chunk, lambda tokens: int(1.1 * last * tokens) <= _LARGEST_POOL)
        return EvalLimits(length, min(grown, length), ((length - 1, 1),))
    position = _largest(length, lambda length: _pool(costs, header, 1, length) <= _BUFFER) - 1
    measured = _pool(costs, header, 1, position + 1, low=True)
    for tokens in range(min(chunk, int(_LARGEST_POOL / (1.1 * measured))), 1, -1):
        if _pool(costs, header, tokens, length) <= 1.1 * measured * tokens:
            return EvalLimits(length, tokens, ((position, 1), (0, tokens)))
    return EvalLimits(position + 1, 1, ((position, 1),))


def buffer_bytes(file: GGMLFile, limits: EvalLimits) -> int:
    """Return the memory of a context's compute buffers in bytes."""
    if file.family in ("llama", "falcon"):
        return 512 * _MEBIBYTE
    costs, length = _COSTS[file.family], limits.context_length
    return _pool(costs, file.header, limits.chunk, length) + 2 * _scratch(costs, file.header, limits.chunk, length)


def weight_bytes(file: GGMLFile) -> int:
    """Return the memory that the weights take if the loader copies them, in bytes."""
    norms, matrices = layout_of(file.family).tensors(file.header)
    shapes = [(shape, 0) for shape in norms.values()]
    shapes += [(shape, file.header.matrix_type or 0) for shape in matrices.values()]
    return sum(row_length(shape, kind) for shape, kind in shapes)


def _scratch(costs: _Costs, header: Header, tokens: int, length: int) -> int:
    """Return the size of the larger scratch buffer in bytes."""
    if costs.second_half is None:
        return 0
    first = _layer(costs, header, tokens, length)
    return max(first, 4 * costs.second_half * header.n_embd * tokens)


def _layer(costs: _Costs, header: Header, tokens: int, length: int) -> int:
    linear = 4 * costs.width * header.n_embd * tokens
    scores = 4 * costs.scores * header.n_head * tokens * length
    return linear + scores + costs.trans * header.n_embd * length


def _pool(costs: _Costs, header: Header, tokens: int, length: int, *, low: bool = False) -> int:
    """Return a bound on the size of the main buffer in bytes: the lower bound if `low`, else the upper bound."""
    objects = header.n_layer * (35 if low else 90) * 336
    ends = 4 * tokens * ((2 if low else 12) * header.n_embd + (1 if low else 3) * header.n_vocab)
    layers = 0 if costs.second_half else header.n_layer * _layer(costs, header, tokens, length)
    work = 0 if low else max(8 * 4 * header.n_embd * tokens, 4 * header.n_head * tokens * length)
    return objects + ends + layers + work


def _falcon_chunk(header: Header, length: int) -> int:
    """Return the largest chunk for Falcon, whose buffers are sized for the 7B and the 40B model."""
    slope, fixed = _FALCON_SCRATCH[header.falcon_40b]
    scratch = int(length * 512 * slope + fixed) * _MEBIBYTE

    def fits(tokens: int) -> bool:
        width = header.n_embd + 2 * header.n_embd // header.n_head * header.n_head_kv
        rows = 4 * tokens * (10 * header.n_embd + 2 * width)
        past = 4 * length * (2 * header.n_embd + 2 * width) + 4 * header.n_head * tokens * length
        ends = 4 * tokens * (header.n_vocab + 4 * header.n_embd) + header.n_layer * 90 * 336
        second = 4 * tokens * 12 * header.n_embd
        wide = (262144 if header.falcon_40b else 145752) * 512 + 8 * _MEBIBYTE
        return rows + past <= scratch and second <= wide and 2 * ends <= _FALCON_MAIN[header.falcon_40b]

    return _largest(_LARGEST_CHUNK, fits)


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `most` that fits, assuming that all smaller ones do; 0 if none fits."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
