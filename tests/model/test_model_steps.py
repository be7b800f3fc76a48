import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.model.card import InputSpec, StageSpec
from wsiseg.model.preprocessed import PreprocessedNetwork
from wsiseg.model.steps import affine

values = st.floats(-4, 4)
deviations = st.floats(0.125, 4)
scales = st.fixed_dictionaries({"name": st.just("scale"), "divide_by": st.floats(0.25, 255)})
normalizations = st.fixed_dictionaries(
    {
        "name": st.just("normalize"),
        "mean": st.tuples(values, values, values),
        "std": st.tuples(deviations, deviations, deviations),
    }
)


def spec_of(steps: list[dict[str, object]]) -> InputSpec:
    return InputSpec.model_validate(
        {
            "from": "slide",
            "channels": ["R", "G", "B"],
            "spacing_um": [1.0, 1.0],
            "patch": [2, 3],
            "steps": steps,
        }
    )


@given(steps=st.lists(scales | normalizations, max_size=4), seed=st.integers(0, 9))
def test_one_multiply_add_does_what_the_steps_say(
    steps: list[dict[str, object]], seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 2, 3, 3), dtype=np.uint8)
    wanted = pixels.astype(np.float64)
    for step in steps:
        if step["name"] == "scale":
            wanted = wanted / step["divide_by"]
        else:
            wanted = (wanted - step["mean"]) / step["std"]
    spec = spec_of(steps)
    combined = affine(spec)
    size = np.abs(combined.scale * 255.0) + np.abs(combined.offset)  # what rounding is relative to
    assert np.all(np.abs(combined.scale * pixels + combined.offset - wanted) <= 1e-6 * (1 + size))

    stage = StageSpec.model_validate(
        {
            "name": "s",
            "kind": "segmenter",
            "inputs": [spec],
            "output": {"name": "o"},
            "weights": {"file": "w.onnx", "sha256": "0" * 64, "architecture": "wsiseg.none"},
        }
    )
    found = PreprocessedNetwork(torch.nn.Identity(), stage)(torch.from_numpy(pixels)).numpy()
    assert np.all(np.abs(found - wanted) <= 1e-6 * (1 + size))
