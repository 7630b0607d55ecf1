"""The paper's random 80/20 trials, as a part of `calm calibrate`."""

import numpy as np

from calm_jax import calibration
from calm_jax.commands.flag_types import numbers
from calm_jax.progress import progress


def check_trials(args):
    """ValueError for trials that could not be run, or whose result would be kept nowhere."""
    if args.trials is None:
        if args.trial_tolerances is not None:
            raise ValueError('--trial_tolerances are those of --trials; pass --trials K too')
        return
    if args.trials < 1:
        raise ValueError(f'--trials {args.trials}: expected 1 or more')
    if len(args.metric) > 1:
        raise ValueError('--trials replicates a figure of one metric; pass one --metric')
    if args.groups or args.joint != 1:
        raise ValueError(
            f'--trials and --{"groups" if args.groups else "joint"}: the trials replicate a figure that has '
            'neither groups nor a shared ε; leave one of the two out'
        )
    if not args.records:
        raise ValueError('--trials needs --records, the folder where trials.json goes')
    trial_tolerances(args)


def trial_tolerances(args):
    """Every δ of the trials."""
    if args.trial_tolerances is None:
        return args.tolerance
    lowest = -1 if args.signed else 0
    wanted = numbers(args.trial_tolerances, '--trial_tolerances')
    for tolerance in wanted:
        if not lowest < tolerance < 1:
            raise ValueError(f'--trial_tolerances: expected numbers between {lowest} and 1, found {tolerance:g}')
    return wanted


def run_trials(args, data, objective, sweep, thresholds, run_):
    """The paper's trials; the grid is decoded until every trial has stopped."""
    options = {
        'tolerances': trial_tolerances(args),
        'epsilon': args.epsilon,
        'p_value': args.p_value,
        'trials': args.trials,
        'seed': args.permutation_seed,
        'group_by': data.column(args.group_by),
        'signed': args.signed,
    }
    full, columns, layers, running = sweep.texts(1.0), [], [], options.pop('tolerances')
    for threshold in thresholds:
        columns.append(objective.losses(sweep.texts(threshold), full))
        layers.append(sweep.layers(threshold))
        losses = np.stack(columns, axis=1)
        running = [
            tolerance
            for tolerance in progress(running, f'trials at λ = {threshold:g}', quiet=args.quiet, unit='δ')
            if calibration.trials_running(losses, tolerances=[tolerance], **options)
        ]
        if not running:
            break
    each = [
        calibration.run_trials(
            losses,
            np.stack(layers, axis=1),
            thresholds,
            tolerances=[tolerance],
            num_layers=run_['num_layers'],
            label=run_['settings']['measure'],
            objective=args.objective,
            metric=args.metric[0],
            **options,
        )
        for tolerance in progress(trial_tolerances(args), 'trials', quiet=args.quiet, unit='δ')
    ]
    return {**each[0], 'tolerances': [row for trials in each for row in trials['tolerances']]}
