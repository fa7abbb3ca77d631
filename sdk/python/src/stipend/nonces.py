"""Nonces: one sequence for the payments and the holds of a mandate, used densely."""

from __future__ import annotations

import threading


class Nonces:
    """Those that one client signs with, by any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[str, int] = {}
        self._free: dict[str, set[int]] = {}

    def take(self, mandate: str, next_nonce: int) -> int:
        """The lowest free one, or the next. `next_nonce` is the relayer's: others may have come that far."""
        with self._lock:
            free = self._free.get(mandate)
            if free:
                nonce = min(free)
                free.remove(nonce)
                return nonce
            # Never backwards: nonces may be on their way that the relayer has not seen yet.
            nonce = max(self._next.get(mandate, 0), next_nonce)
            self._next[mandate] = nonce + 1
            return nonce

    def release(self, mandate: str, nonce: int) -> None:
        """It is known that nothing was done with it."""
        with self._lock:
            self._free.setdefault(mandate, set()).add(nonce)

    def forget_released(self, mandate: str) -> None:
        """Another process uses nonces of this mandate: what was released may be theirs by now."""
        with self._lock:
            self._free.pop(mandate, None)
