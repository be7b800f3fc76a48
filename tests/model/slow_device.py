"""A device whose lanes run whenever they may, in any order they may."""

import random
from collections import deque

import torch


class Point:
    """An event; waiting for it lets the scheduler run until it has passed."""

    def __init__(self, device):
        self.device = device
        self.passed = False

    def synchronize(self):
        self.device.run_until(lambda: self.passed)


class SlowLane:
    """Keeps its work until the scheduler picks it."""

    def __init__(self, device):
        self.device = device
        self.todo = deque()

    def run(self, work):
        self.todo.append(("run", work))

    def wait(self, event):
        self.todo.append(("wait", event))

    def record(self):
        event = Point(self.device)
        self.todo.append(("record", event))
        return event

    def step(self):
        """Do the next thing; return whether there was one that could be done."""
        if not self.todo:
            return False
        kind, what = self.todo[0]
        if kind == "wait" and not what.passed:
            return False
        self.todo.popleft()
        if kind == "run":
            with torch.inference_mode():
                what()
        elif kind == "record":
            what.passed = True
        return True


class AdversarialDevice:
    """Does as little as it must, and of that whatever the random numbers say first."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.lanes = []
        self.caller = self.lane()
        self.host_waits = 0

    def lane(self):
        self.lanes.append(SlowLane(self))
        return self.lanes[-1]

    def current(self):
        return self.caller

    def host_buffer(self, shape, dtype):
        return torch.full(tuple(shape), 77, dtype=dtype)

    buffer = host_buffer

    def prepare(self, forward, inputs, lane):
        return forward, forward(*inputs)

    def synchronize(self):
        self.run_until(lambda: not any(lane.todo for lane in self.lanes))

    def run_until(self, done):
        self.host_waits += not done()
        while not done():
            order = self.random.sample(self.lanes, len(self.lanes))
            # Some lanes get far ahead of the others.
            progress = [lane.step() for lane in order if self.random.random() < 0.7]
            if not any(progress) and not any(lane.step() for lane in self.lanes) and not done():
                raise AssertionError("deadlock")
