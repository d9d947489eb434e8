"""Faults at the calls that change a disk: the process dies there, or the disk is full."""

import os
import signal

CALLS = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync", "link", "symlink")


class Disk:
    """Stands before every call that changes the disk; the n-th one fails (none if n is None).

    A write is two calls: at the first nothing has been written, at the second one half has.
    """

    def __init__(self, n=None, full=False):
        self.n, self.full, self.calls = n, full, 0

    def install(self):
        for name in CALLS:
            setattr(os, name, self._before(getattr(os, name)))
        fdopen = os.fdopen
        os.fdopen = lambda *args, **kwargs: _File(fdopen(*args, **kwargs), self)
        return self

    def step(self):
        self.calls += 1
        if self.calls == self.n:
            if not self.full:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")

    def _before(self, real):
        def call(*args, **kwargs):
            self.step()
            return real(*args, **kwargs)

        return call


class _File:
    def __init__(self, file, disk):
        self.file, self.disk = file, disk

    def write(self, data):
        self.disk.step()
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        self.disk.step()
        self.file.write(data[half:])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)
