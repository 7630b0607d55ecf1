"""Trains a model with an exit after every layer on your JSONL, then an exit classifier, and decodes with it.

python examples/train_on_jsonl.py                              # after `calm demo`, which leaves calm_demo/
"""

import shutil

import calm_jax as calm

DATA = 'calm_demo/data/calibration.jsonl'  # one JSON object a line; any fields


def main(steps=30):
    """Thirty steps: enough to see that it goes, not to translate. gin/runs/demo.gin is the demonstration's whole training."""
    for folder in ('trained_by_example', 'classifier_by_example'):
        shutil.rmtree(folder, ignore_errors=True)
    pairs = calm.PairedText(DATA, '{en}', '{fr}', batch_size=16, max_source_length=48, max_target_length=48, length_multiple=48)
    options = calm.LoopOptions(steps=steps, log_every=10)
    optimizer = calm.Optimizer('adamw', learning_rate=1e-3, warmup_steps=5)
    calm.train('trained_by_example', pairs, options, optimizer, checkpoint='calm_demo/model')
    model = calm.train_exit_classifier(
        'classifier_by_example', pairs, calm.LoopOptions(steps=10), checkpoint='trained_by_example/last'
    )
    assert model.heads is not None  # it has the classifier
    output = model.generate('8 volts', exit=calm.Exit(calm.Classifier(**model.heads['exit_classifier']), threshold=0.9))
    print(model, output.text, output.exit_layers, sep='\n')


if __name__ == '__main__':
    main()
