"""How many images one pass may hold: the memory of a pass, measured, a bound on it, and half as many where it runs out all the same."""

import warnings
from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

CPU_BYTES = 256 * 2**20
_MEASURED: WeakKeyDictionary[nn.Module, dict[Hashable, int]] = WeakKeyDictionary()


def budget(device: torch.device) -> int:
    """Bytes that the passes of one chunk may occupy."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_BYTES


class PassSize:
    """The bytes that a pass made meanwhile occupies, ``bytes``: a bound without a graph, and with one what the graph keeps for going back.

    A pass without gradients frees each activation once it is used. What lives at one time is the input with its copies, and at most about four
    tensors of the size of the largest layer output (a layer's input, its output, a residual shortcut, a work buffer).

    Measuring takes about as long as a pass of one small image. With a ``key``, whatever tells passes of this model apart, it is done once for each.
    """

    def __init__(self, model: nn.Module, key: Hashable = None):
        self._model, self._key = model, key
        self._known = key is not None and key in _MEASURED.get(model, {})
        self._parameters = {p.data_ptr() for p in model.parameters()}
        self._largest = self._input = self._kept = 0

    @property
    def bytes(self) -> int:
        return _MEASURED[self._model][self._key] if self._known else max(4 * (self._largest + self._input), self._kept)

    def __enter__(self) -> "PassSize":
        if self._known:
            return self
        self._handles = [m.register_forward_hook(self._note) for m in self._model.modules()]
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept)
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._known:
            return
        self._hooks.__exit__(*exception)
        for handle in self._handles:
            handle.remove()
        if self._key is not None and exception[0] is None:
            _MEASURED.setdefault(self._model, {})[self._key] = self.bytes

    @torch.compiler.disable
    def _note(self, module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor):
            self._largest = max(self._largest, output.nbytes)
        if module is self._model:
            self._input = max(self._input, inputs[0].nbytes)

    def _keep(self, tensor: Tensor) -> Tensor:
        self._kept += tensor.nbytes * (tensor.data_ptr() not in self._parameters)
        return tensor


def in_parts(run: Callable[[int, int], None], total: int, size: int) -> int:
    """Call run(start, stop) from 0 to ``total``, ``size`` at a time. Where memory runs out, half as many from there on; a warning says so once.

    Returns the size that it came down to. Raises what the allocator raised where a single one does not fit.
    """
    start, told = 0, False
    while start < total:
        stop = min(start + size, total)
        try:
            run(start, stop)
        except RuntimeError as error:
            if stop - start == 1 or not _out_of_memory(error):
                raise
            size = -(-(stop - start) // 2)
        else:
            start = stop
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not told:
            warnings.warn(f"out of memory with {stop - start} in one pass: going on with half as many", stacklevel=3)
            told = True
    return size


def _out_of_memory(error: RuntimeError) -> bool:
    """torch's own class where the device has one; the CPU's allocator raises a RuntimeError that names it."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
