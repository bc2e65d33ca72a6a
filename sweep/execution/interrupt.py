"""Ctrl-C: the first asks every run to save its state and stop, the second ends everything at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODE = 130
"""As shells have it after Ctrl-C."""
LOOK_EVERY_SECONDS = 1.0
"""How often a run asks whether it is to stop; a look takes 0.3 ms."""


class Interrupts:
    """From `install` to the end of the context, the first SIGINT or SIGTERM asks, and the second quits at once.

    A thread hears of signals through a pipe that Python writes to as they come. Handlers would have to wait until the
    main thread is back from Ray, and where Ray has died it is not for a minute.

    Args:
        on_second: Does not return.
    """

    def __init__(self, on_second: Callable[[], Any] | None = None) -> None:
        self._on_first: Callable[[], None] = lambda: None
        self._is_lost: Callable[[], bool] = lambda: False
        self._on_second = on_second or quit_at_once
        self._count = 0
        self._before: dict[signal.Signals, Any] = {}
        self._listener: threading.Thread | None = None
        self._heard, self._told = socket.socketpair()
        self._told.setblocking(False)
        self._told_before = -1

    @property
    def requested(self) -> bool:
        return self._count > 0

    def __enter__(self) -> "Interrupts":
        return self

    def install(self, on_first: Callable[[], None], is_lost: Callable[[], bool] = lambda: False) -> None:
        """Once Ray is started, which brings a handler of its own.

        Args:
            on_first: Called once, in a thread of its own, since it may wait for Ray.
            is_lost: Whether what was asked to stop is gone already, so that nothing would ever end: the same signal may
                have been sent to every process of a job. Then there is no waiting for a second one.
        """
        self._on_first, self._is_lost = on_first, is_lost
        if threading.current_thread() is threading.main_thread():  # others may not have handlers
            self._listener = threading.Thread(target=self._listen, name="w2s-interrupt", daemon=True)
            self._listener.start()
            self._told_before = signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
            self._before = {which: signal.signal(which, lambda number, frame: None) for which in SIGNALS}

    def __exit__(self, *exc: object) -> None:
        if self._listener is not None:
            for which, handler in self._before.items():
                signal.signal(which, handler)
            signal.set_wakeup_fd(self._told_before)
            self._told.send(_ENOUGH)
            self._listener.join()
        self._heard.close()
        self._told.close()

    def _listen(self) -> None:
        while True:
            try:
                number = self._heard.recv(1)
            except TimeoutError:
                number = b""
            if number == _ENOUGH:
                return
            if number and number[0] in SIGNALS:
                self._count += 1
                if self._count == 1:
                    threading.Thread(target=self._on_first, name="w2s-interrupt-asks", daemon=True).start()
                    self._heard.settimeout(LOOK_EVERY_SECONDS)
            if self._count > 1 or (self._count and self._is_lost()):
                self._on_second()


_ENOUGH = b"\0"
"""In the place of a signal's number."""


def quit_at_once() -> None:
    """Kills every process that this one started, and ends without cleaning up: what is to be kept is in the store.

    On a cluster there is nothing of ours to kill here; Ray ends the workers of a driver that is gone.
    """
    import psutil

    from sweep.execution.temporary import remove_own

    with contextlib.suppress(psutil.Error):
        # Parents first, so that nothing new is started by a raylet whose workers vanish.
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
    remove_own()
    with contextlib.suppress(OSError):
        if sys.stdout.isatty():
            os.write(1, b"\x1b[?25h\n")  # the live table hides the cursor
        os.write(2, b"ended at once; the same command goes on from the states saved last\n")
    os._exit(EXIT_CODE)


@dataclass(frozen=True)
class StopRequest:
    """Asks the processes of an execution, wherever they are, to stop: a key in the cluster's own key-value store.

    Called by a run, it says whether the request was made, looking every `LOOK_EVERY_SECONDS` at most. Ray's key-value
    store is as reachable as Ray itself, also from the worker groups of Ray Train, and needs no process of its own.
    """

    name: str = field(default_factory=lambda: uuid4().hex)

    @property
    def _key(self) -> bytes:
        return f"stop/{self.name}".encode()

    def make(self) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._key, b"1", namespace=b"w2s")

    def withdraw(self) -> None:
        """Once nobody will ask any more."""
        from ray.experimental.internal_kv import _internal_kv_del

        with contextlib.suppress(Exception):  # Ray may be gone, and the key with it
            _internal_kv_del(self._key, namespace=b"w2s")

    def __call__(self) -> bool:
        asked, looked = _looks.get(self.name, (False, float("-inf")))
        now = time.monotonic()
        if not asked and now - looked >= LOOK_EVERY_SECONDS:
            asked = self._look()
            _looks[self.name] = (asked, now)
        return asked

    def _look(self) -> bool:
        from ray.experimental.internal_kv import _internal_kv_exists

        try:
            return bool(_internal_kv_exists(self._key, namespace=b"w2s"))
        except Exception:  # the head node is away for a moment: no reason to fail, nor to stop
            return False


_looks: dict[str, tuple[bool, float]] = {}
"""Of this process: name of a request to its last answer, and when it was got."""
