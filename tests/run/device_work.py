"""What spawned processes do in the tests of devices: they must find it in a module."""

import logging
import os
import signal
import time
from pathlib import Path

from wsiseg.engine import TilesDone
from wsiseg.errors import ModelError


def make_square(device):
    def work(job, listen):
        listen(TilesDone(f"slide {job}", device, 1))
        return job, job * job, device, os.getpid()

    return work


def make_talkative(device):
    def work(job, listen):
        log = logging.getLogger("wsiseg.engine.resume")
        log.debug("nobody wants this")
        log.info("%s goes on", job)
        log.warning("odd: %s", Path(job))
        return job, device

    return work


def make_slow(device):
    def work(job, listen):
        time.sleep(job)
        return job, device

    return work


def make_mortal(device):
    def work(job, listen):
        if job == "exit":
            os._exit(3)
        if job == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return job, device

    return work


def make_broken(device):
    raise ModelError(f"no such model on {device}")


def make_fragile(device):
    if device.endswith("1"):
        os._exit(1)
    return make_square(device)


def make_stillborn(device):
    os._exit(1)


def make_failing(device):
    def work(job, listen):
        raise ModelError(f"job {job}: it failed")

    return work


def make_shared(folder, device):
    def work(job, listen):
        (folder / f"{job}-{device.replace(':', '')}").touch()
        return job

    return work
