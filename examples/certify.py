"""From calibration data to outputs within a guarantee, in Python.

python examples/certify.py                                     # after `calm demo`, which leaves calm_demo/
"""

import calm_jax as calm


def main():
    """Certifies a threshold of the softmax gap for textual consistency, keeps the certificate, and decodes within it."""
    calm.use_compilation_cache()
    model = calm.load('calm_demo/model')

    # What is tested, in this order, was chosen without looking at the calibration data.
    exit = calm.Exit(calm.SoftmaxGap(calm.FixedPruning(keep=64)))
    points = calm.points_of(calm.Decoding(exit=exit), [0.99, 0.98, 0.97, 0.95, 0.9])
    certificate = calm.calibrate_model(
        model,
        'calm_demo/data/calibration.jsonl',
        points,
        metric='chrf',
        tolerance=0.05,
        epsilon=0.05,
        source_field='en',
        batch_size=100,
    )
    certificate.save('certificate_of_example.json')
    print(certificate.guarantee)

    # Another model, tokenizer, dtype or version of the semantics is refused in one line.
    certificate = calm.Certificate.load('certificate_of_example.json')
    records = [{'en': 'either 2,497 centimeters or 8 volts'}, {'en': 'Monday, May 5, 2025'}]
    for output in model.generate(records, certificate=certificate):
        print(f'{output.layers:.2f} layers, {output.flops / 1e6:.2f} MFLOPs: {output.text}')


if __name__ == '__main__':
    main()
