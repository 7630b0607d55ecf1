"""The records of a calibration: what was decoded at every threshold, and what it was decoded with.

A folder with one decoded file per λ, each with its header, and records.json: fingerprints, settings, data, thresholds.
"""

import dataclasses
from pathlib import Path

from calm_jax.commands import decode_flags
from calm_jax.commands.generate import decode_file, environment, model_fingerprints
from calm_jax.commands.provenance import data_of
from calm_jax.data import decoded
from calm_jax.decoding.settings import Settings
from calm_jax.files import read_json
from calm_jax.model import load
from calm_jax.sweep import Sweep

RECORDS = 'records.json'  # what a folder of records was made with


def recorded_source_field(args):
    """What inputs were made of when the records were decoded. ValueError where there are none, or a flag says otherwise."""
    if not args.records or not (path := Path(args.records) / RECORDS).is_file():
        raise ValueError('--checkpoint is missing; without a model, --records must name the records of an earlier run')
    recorded = read_records(path)['data']['source_field']
    if args.source_field not in (None, recorded):
        raise ValueError(f'--source_field {args.source_field}: the records in {args.records} were decoded with {recorded}')
    return recorded


def open_sweep(args, data, directory):
    """(what the records are made with, the sweep, the model or None)."""
    path = directory / RECORDS
    if not args.checkpoint:
        run_ = read_records(path)
        if run_['data']['fingerprint'] != data.records.fingerprint():
            raise ValueError(f'{directory}: its records were decoded from other data than {args.data}')
        for name, value in decode_flags.given(args).items():
            if run_['settings'].get(name) != value:
                raise ValueError(f'--{name} {value}: the records in {directory} were decoded with {run_["settings"].get(name)}')

        def find(threshold, output):
            if not output.is_file():
                raise FileNotFoundError(f'{output}: not decoded yet; pass --checkpoint to decode it')
            if names := decoded.header_differences(output, header(run_, threshold)):
                raise ValueError(
                    f'{output} was decoded otherwise than {path} says ({", ".join(names)}); decode again with '
                    '--checkpoint and --overwrite'
                )

        return run_, Sweep(directory, find), None
    model = load(args.checkpoint, args.dtype)
    settings = decode_flags.settings(args, model)
    if settings.measure is None:
        raise ValueError('--measure is missing: the confidence whose threshold is to be calibrated')
    settings.build(model.config, model.heads)
    recorded = dataclasses.asdict(settings)
    del recorded['threshold']
    run_ = {
        'fingerprints': model_fingerprints(model),
        'settings': recorded,
        'num_layers': model.config.num_decoder_layers,
        'data': data_of(data.records, args.source_field),
        'environment': environment(args.batch_size),
    }
    if path.exists() and not args.overwrite:
        before, now = (header(each, 0.5) for each in (read_records(path), run_))
        if names := decoded.differences(before, now):
            raise ValueError(
                f'{directory} holds records that were decoded otherwise ({", ".join(names)}); name another '
                'folder, or pass --overwrite'
            )
    directory.mkdir(parents=True, exist_ok=True)

    def decode(threshold, output):
        partial = output.with_name(output.name + '.partial')
        fits = not decoded.header_differences(partial if partial.exists() else output, header(run_, threshold))
        if fits and output.exists() and not partial.exists():
            return
        started = output.exists() or partial.exists()
        replaced = args.overwrite and not fits
        if replaced:
            output.unlink(missing_ok=True)  # an interruption must not leave it under the header of the new one
        decode_file(
            model,
            dataclasses.replace(settings, threshold=threshold),
            args.data,
            args.source_field,
            output,
            args.batch_size,
            quiet=args.quiet,
            resume=started and not replaced,
            overwrite=replaced,
            parameters=run_['fingerprints']['parameters'],
        )

    return run_, Sweep(directory, decode), model


def read_records(path):
    """What records.json holds. ValueError where it is malformed or incomplete."""
    try:
        run_ = read_json(path)
        header(run_, 0.5)
        counted = all(isinstance(each, int | float) for each in (*run_['thresholds'], run_['num_layers']))
        if not run_['settings']['measure'] or not counted:
            raise ValueError('no measure, or thresholds that are no numbers')
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{path} is malformed or incomplete ({str(error).removeprefix(f"{path}: ")}); decode again with --checkpoint and '
            '--overwrite'
        ) from None
    return run_


def header(run_, threshold):
    """What the header of the records at λ says if they were made with this."""
    data, settings = run_['data'], Settings(**run_['settings'], threshold=threshold).deciding()
    return decoded.header(
        data['fingerprint'], data['source_field'], settings, run_['environment']['batch_size'], run_['fingerprints']
    )


def kept(directory, run_):
    """Every λ of the grid whose records are there and fit, an earlier promise's too."""
    paths = {threshold: Sweep(directory, None).path(threshold) for threshold in run_['thresholds']}
    return [
        threshold
        for threshold, path in paths.items()
        if path.is_file() and not decoded.header_differences(path, header(run_, threshold))
    ]
