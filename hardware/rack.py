"""The GPUs that exist, taken by workers that start and given back by workers that stop."""

from dataclasses import dataclass

from hardware.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The GPUs one worker got: ``gpus`` consecutive ones, and the domains they lie in."""

    first_gpu: int
    gpus: int
    first_domain: int
    last_domain: int


class Rack:
    """GPUs of one kind in domains of ``domain`` GPUs, at most ``gpus`` of them (``None``: any).

    A worker takes consecutive GPUs, first fit. One that fits into a domain is never split; a
    larger one starts on a domain boundary and takes wholly free domains, whose rest others fill.
    """

    __slots__ = ("_domain", "_free", "_lowest", "_quota", "taken")

    def __init__(self, domain: int, gpus: int | None = None) -> None:
        self._domain = domain
        self._quota = gpus
        self._free: list[list[bool]] = []  # per domain, which of its GPUs are free
        self._lowest = 0  # every domain before this one is full
        self.taken = 0

    def take(self, size: int) -> Slot | None:
        """Take ``size`` GPUs and return their slot, or ``None`` where the quota has not as many.

        Raises:
            SpecError: a size below 1 GPU.

        """
        if type(size) is not int or size < 1:
            raise SpecError(f"placement: a worker must have at least 1 GPU but got {size!r}")
        if self._quota is not None and self.taken + size > self._quota:
            return None
        first, within = self._find(size)
        start = first * self._domain + within
        self._mark(start, size, free=False)
        last = (start + size - 1) // self._domain
        return Slot(first_gpu=start, gpus=size, first_domain=first, last_domain=last)

    def give(self, slot: Slot) -> None:
        """Take a slot's GPUs back."""
        self._mark(slot.first_gpu, slot.gpus, free=True)
        self._lowest = min(self._lowest, slot.first_domain)

    def _find(self, size: int) -> tuple[int, int]:
        """Return the first domain, and the GPU within it, where ``size`` GPUs are free."""
        while self._lowest < len(self._free) and not any(self._free[self._lowest]):
            self._lowest += 1
        for at in range(self._lowest, len(self._free)):
            if size > self._domain:
                if self._whole(at, size):
                    return at, 0
            elif (within := _run(self._free[at], size)) is not None:
                return at, within
        at = len(self._free)
        if size > self._domain:
            while at > self._lowest and all(self._free[at - 1]):
                at -= 1
        return at, 0

    def _whole(self, first: int, size: int) -> bool:
        """Tell whether known domains from ``first`` on can hold a worker larger than one."""
        last = first + (size - 1) // self._domain
        return last < len(self._free) and all(all(each) for each in self._free[first : last + 1])

    def _mark(self, start: int, size: int, *, free: bool) -> None:
        domain = self._domain
        while len(self._free) * domain < start + size:
            self._free.append([True] * domain)
        for gpu in range(start, start + size):
            self._free[gpu // domain][gpu % domain] = free
        self.taken += -size if free else size


def _run(free: list[bool], size: int) -> int | None:
    """Return where ``size`` consecutive free GPUs begin, if there are as many."""
    length = 0
    for at, each in enumerate(free):
        length = length + 1 if each else 0
        if length == size:
            return at + 1 - size
    return None
