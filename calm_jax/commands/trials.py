"""The flags of the paper's random 80/20 trials, as a part of `calm calibrate`."""

import argparse

from calm_jax.commands.flag_types import numbers
from calm_jax.commands.option_flags import NONE


def check_trials(args: argparse.Namespace) -> None:
    """ValueError for trials that could not be run, or whose result would be kept nowhere."""
    if args.trials is None:
        if args.trial_tolerances is not None:
            raise ValueError('--trial_tolerances are those of --trials; pass --trials K too')
        return
    if args.trials < 1:
        raise ValueError(f'--trials {args.trials}: expected 1 or more')
    if len(args.metric or ()) > 1:
        raise ValueError('--trials replicates a figure of one metric; pass one --metric')
    if args.groups or args.joint != 1:
        raise ValueError(
            f'--trials and --{"groups" if args.groups else "joint"}: the trials replicate a figure that has '
            'neither groups nor a shared ε; leave one of the two out'
        )
    if args.records == NONE:
        raise ValueError(f'--trials needs records, where trials.json goes, and --records {NONE} keeps none; leave one out')
    trial_tolerances(args)


def check_trials_of(args: argparse.Namespace, paths: int) -> None:
    """ValueError for trials of several sequences, among which no tuning data choose one."""
    if args.trials and paths > 1 and not args.tuning_data:
        raise ValueError('--trials replicates a figure of one sequence; pass --tuning_data, or one measure alone')


def trial_tolerances(args: argparse.Namespace) -> list[float]:
    """Every δ of the trials."""
    if args.trial_tolerances is None:
        return args.tolerance
    lowest = -1 if args.signed else 0
    wanted = numbers(args.trial_tolerances, '--trial_tolerances')
    for tolerance in wanted:
        if not lowest < tolerance < 1:
            raise ValueError(f'--trial_tolerances: expected numbers between {lowest} and 1, found {tolerance:g}')
    return wanted
