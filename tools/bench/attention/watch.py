"""Who is at work, on disk beside the results, and a thread that does not wait for ever.

A kernel that never ends takes its process with it, whether this thread ends the process or whoever started
it does. So the record of a contestant that was lost is written before its work starts and removed after it;
the next process finds it and goes on without that contestant. The thread cannot run while somebody hangs
with Python's lock held; the record on disk is there all the same.
"""
import contextlib
import json
import os
import threading
import time

LOOK_SECONDS = 0.1


def unwatched(record, patience_s):
    return contextlib.nullcontext()


class Watch:
    """Called with the record of a lost contestant and its patience, it gives the context for its work."""

    def __init__(self, results_path, hung):
        """hung(reason) is called in a thread and must not return to the work."""
        self.path, self._hung = f"{results_path}.started", hung
        self._work = None   # (record, patience in seconds, when it is over)
        threading.Thread(target=self._look, daemon=True).start()

    def leftover(self):
        """The record of a contestant whose process ended during its work, or None; it is asked for once."""
        try:
            with open(self.path, encoding="utf-8") as file:
                record = json.load(file)
        except FileNotFoundError:
            return None
        os.unlink(self.path)
        return record

    @contextlib.contextmanager
    def __call__(self, record, patience_s):
        # Without fsync: this is done for every sample, and it must outlive the process, not the machine.
        with open(f"{self.path}.part", "w", encoding="utf-8") as file:
            json.dump(record, file)
        os.replace(f"{self.path}.part", self.path)
        self._work = record, patience_s, time.monotonic() + patience_s
        try:
            yield
        finally:
            self._work = None
            os.unlink(self.path)

    def _look(self):
        while True:
            time.sleep(LOOK_SECONDS)
            work = self._work
            if work and time.monotonic() > work[2]:
                self._hung(f"{work[0]['contestant']} on {work[0]['shape']['name']}: no progress for "
                           f"{work[1]:g} s")
                return
