"""A pipeline of slots on a device whose lanes run in any order their events allow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_device import AdversarialDevice

from wsiseg.model.slots import SlotPipeline, specs_of


def forward(pixels, heat):
    return pixels.float().sum((1, 2)) + heat.sum((1, 2))


def batch(seed, n=2):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (n, 4, 3, 3), dtype=np.uint8),
        rng.random((n, 4, 3, 1), dtype=np.float32),
    )


def expected(pixels, heat):
    return pixels.sum((1, 2), dtype=np.float64) + heat.sum((1, 2), dtype=np.float64)


@given(seed=st.integers(0, 10**6), count=st.integers(0, 9), slots=st.integers(1, 4))
def test_no_interleaving_of_lanes_changes_a_result(seed, count, slots):
    batches = [batch(i) for i in range(count)]
    pipeline = SlotPipeline(forward, specs_of(batch(0)), AdversarialDevice(seed), slots=slots)
    found = list(pipeline.to_host(batches))
    assert len(found) == count
    for values, inputs in zip(found, batches, strict=True):
        np.testing.assert_allclose(values, expected(*inputs), atol=1e-3)


@given(seed=st.integers(0, 10**6), count=st.integers(0, 9), slots=st.integers(1, 4))
def test_outputs_left_on_the_device_stay_until_they_are_used(seed, count, slots):
    batches = [batch(i) for i in range(count)]
    device = AdversarialDevice(seed)
    pipeline = SlotPipeline(forward, specs_of(batch(0)), device, slots=slots)
    found = []
    for output in pipeline.on_device(batches):
        device.caller.run(lambda output=output: found.append(output.clone()))
    device.synchronize()
    assert len(found) == count
    for values, inputs in zip(found, batches, strict=True):
        np.testing.assert_allclose(values.numpy(), expected(*inputs), atol=1e-3)


@given(seed=st.integers(0, 10**6))
def test_a_pipeline_serves_one_stream_after_another(seed):
    pipeline = SlotPipeline(forward, specs_of(batch(0)), AdversarialDevice(seed))
    dropped = pipeline.to_host(map(batch, range(7)))
    next(dropped)
    dropped.close()
    (found,) = pipeline.to_host([batch(9)])
    np.testing.assert_allclose(found, expected(*batch(9)), atol=1e-3)


def test_the_receiver_owns_the_results():
    pipeline = SlotPipeline(forward, specs_of(batch(0)), AdversarialDevice(0), slots=1)
    first, second = pipeline.to_host([batch(0), batch(1)])
    first[...] = -1
    np.testing.assert_allclose(second, expected(*batch(1)), atol=1e-3)


def test_batches_are_taken_ahead_of_their_results():
    taken = []

    def source():
        for i in range(6):
            taken.append(i)
            yield batch(i)

    pipeline = SlotPipeline(forward, specs_of(batch(0)), AdversarialDevice(0), slots=3)
    outputs = pipeline.to_host(source())
    next(outputs)
    assert taken == [0, 1, 2, 3]


def test_the_host_never_waits_for_results_left_on_the_device():
    device = AdversarialDevice(0)
    pipeline = SlotPipeline(forward, specs_of(batch(0)), device, slots=3)
    device.host_waits = 0
    outputs = pipeline.on_device(map(batch, range(100)))
    next(outputs)
    assert device.host_waits == 0


def test_a_source_that_fails_ends_the_stream():
    def source():
        yield batch(0)
        raise OSError("disk gone")

    pipeline = SlotPipeline(forward, specs_of(batch(0)), AdversarialDevice(0))
    with pytest.raises(OSError, match="disk gone"):
        list(pipeline.to_host(source()))


def test_a_read_only_batch_is_fine():
    pixels, heat = batch(3)
    pixels.flags.writeable = False
    pipeline = SlotPipeline(forward, specs_of(batch(0)), AdversarialDevice(0))
    (found,) = pipeline.to_host([(pixels, heat)])
    np.testing.assert_allclose(found, expected(*batch(3)), atol=1e-3)
