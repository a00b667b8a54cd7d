"""Which tensors are alive at a program's peak: their bytes by the operation that made them, dtype and shape."""

import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIB = 1 << 20
Made = tuple[str, str, tuple[int, ...]]


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within this, every storage that an operation makes counts until it is freed. What an operation needs inside, and
    what was there before, does not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, tuple[int, Made]] = {}
        self._now = 0
        self.peak = 0
        """Bytes, to 4 MiB."""
        self._at_peak: dict[int, tuple[int, Made]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._note(tensor, func.overloadpacket.__name__)
        if self._now > self.peak + 4 * MIB:
            self.peak, self._at_peak = self._now, dict(self._alive)
        return found

    def _note(self, tensor: Tensor, operation: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive and size:
            self._alive[key] = size, (operation, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            self._now += size
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        size, _ = self._alive.pop(key)
        self._now -= size

    def lines(self, most: int = 30) -> Iterator[str]:
        sizes: Counter[Made] = Counter()
        counts: Counter[Made] = Counter()
        for size, made in self._at_peak.values():
            sizes[made] += size
            counts[made] += 1
        yield f"{self.peak / MIB:8.1f} MiB alive at the peak"
        for made, size in sizes.most_common(most):
            yield f"{size / MIB:8.1f} MiB  {counts[made]:4d} x {' '.join(map(str, made))}"
