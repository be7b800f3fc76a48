"""Making probabilities honest: scalings of raw network values, fitted on validation data.

C. Guo et al., On calibration of modern neural networks, ICML 2017,
https://proceedings.mlr.press/v70/guo17a.html.
"""

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluate.values import IGNORE, check_labels

__all__ = ["fit_temperature", "fit_vector"]

Values = NDArray[np.float64]

TEMPERATURES = (0.02, 50.0)
"""What is looked through; data whose classes are told apart without a mistake would have 0."""

LARGEST = 50.0
"""Of weights and biases, which such data would drive to infinity."""


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the temperature with the least negative log likelihood of softmax(logits / t).

    Parameters
    ----------
    logits
        float (n, class), raw network values: a sample of pixels is enough.
    labels
        Integers (n,); 255 is left out.

    Returns
    -------
    float
        Between 0.02 and 50; above 1 where the network is too sure. The most probable class of a
        pixel never changes.

    Raises
    ------
    UsageError
        If shapes do not fit, a value is not finite, or no pixel is left.
    LabelError
        If a label stands for no class.
    """
    from scipy.optimize import brentq

    values, truth = _checked(logits, labels)
    given = values[np.arange(len(truth)), truth]

    def slope(sharpness: float) -> float:
        """Return the derivative of the loss by 1 / temperature, in which the loss is convex."""
        expected = (np.exp(_log_softmax(values * sharpness)) * values).sum(axis=1)
        return float((expected - given).mean())

    sharpest, flattest = 1 / TEMPERATURES[0], 1 / TEMPERATURES[1]
    if slope(sharpest) <= 0:
        return TEMPERATURES[0]
    if slope(flattest) >= 0:
        return TEMPERATURES[1]
    return 1 / float(brentq(slope, flattest, sharpest, xtol=1e-10))


def fit_vector(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[Values, Values]:
    """Return the weights and biases with the least loss of softmax(logits * weights + biases).

    Parameters and errors are those of `fit_temperature`. Both results are float64 (class,); the
    biases sum to 0, since a common one changes nothing. Weights and biases are held within 50 of 0.
    """
    from scipy.optimize import minimize

    values, truth = _checked(logits, labels)
    count, classes = values.shape
    target = np.zeros(values.shape)
    target[np.arange(count), truth] = 1.0

    def loss(parameters: Values) -> tuple[float, Values]:
        weights, biases = parameters[:classes], parameters[classes:]
        log_probabilities = _log_softmax(values * weights + biases)
        gradient = (np.exp(log_probabilities) - target) / count
        slopes = np.concatenate([(gradient * values).sum(axis=0), gradient.sum(axis=0)])
        return -float((log_probabilities * target).sum() / count), slopes

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    bounds = [(-LARGEST, LARGEST)] * (2 * classes)
    found = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-8},
    )
    weights, biases = found.x[:classes], found.x[classes:]
    return weights, biases - biases.mean()


def _checked(
    logits: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[Values, NDArray[np.intp]]:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.shape[1] < 2:
        raise UsageError(
            f"a scaling is fitted on raw values (n, class >= 2) and labels (n,), found "
            f"{logits.shape} and {labels.shape}"
        )
    known = labels != IGNORE
    values, truth = logits[known].astype(np.float64), labels[known].astype(np.intp)
    if not len(truth) or not np.isfinite(values).all():
        raise UsageError(
            f"a scaling needs finite values of at least one pixel, found {len(truth)} pixels"
            f"{'' if np.isfinite(values).all() else ', some not finite'}; check the network's "
            "output and the labels"
        )
    check_labels(int(truth.max()), values.shape[1], "reference")
    return values, truth


def _log_softmax(values: Values) -> Values:
    shifted = values - values.max(axis=1, keepdims=True)
    result: Values = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
