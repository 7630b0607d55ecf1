"""A metric of one's own: whether an output has the numbers of its reference. `calm calibrate` bounds it like any other.

    python examples/own_metric.py                                  # after `calm demo`, which leaves calm_demo/
    PYTHONPATH=examples calm calibrate --checkpoint calm_demo/model --data calm_demo/data/calibration.jsonl \
        --source_field en --measure softmax_gap --metric own_metric:same_numbers --tolerance 0.1 --output numbers.json
"""

import re
from collections.abc import Sequence

import numpy as np

import calm_jax as calm

NUMBER = re.compile(r'\d+')


def same_numbers(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """float64 [B]: the share of a reference's runs of digits that the prediction has, of the best reference."""
    return np.array([max(_share(text, reference) for reference in each) for text, each in zip(predictions, references)])


def _share(text: str, reference: str) -> float:
    wanted, there = NUMBER.findall(reference), NUMBER.findall(text)
    return sum(number in there for number in wanted) / len(wanted) if wanted else 1.0


def main():
    """Calibrates the softmax gap on it, and decodes within the certificate."""
    model = calm.load('calm_demo/model')
    points = calm.points_of(calm.Decoding(exit=calm.Exit(calm.SoftmaxGap())), [0.99, 0.95, 0.9])
    certificate = calm.calibrate_model(
        model, 'calm_demo/data/calibration.jsonl', points, metric=same_numbers, tolerance=0.1, source_field='en'
    )
    print(certificate.guarantee)
    for output in model.generate([{'en': '2,497 centimeters'}, {'en': '8 volts'}], certificate=certificate):
        print(output.text, output.exit_layers)


if __name__ == '__main__':
    main()
