"""What a study of layers comes to: layer FLOPs at equal quality, and which of the paper's claims hold (Glavas et al. 2024)."""

import re

from page import cell, read
from policy_section import interval

TARGET = 0.25  # fewer layer FLOPs than evenly spaced layers at equal quality


def uniform_cost(scores, metric):
    """quality → the least share of full depth's layer FLOPs at which evenly spaced layers, interpolated between costs, are as
    good; None where they nowhere are."""
    names = [name for name in scores if re.fullmatch(r'full|uniform_\d+', name)]
    points = sorted((scores[name]['layer_flops'] / scores[name]['full_layer_flops'], scores[name][metric]) for name in names)

    def least(quality):
        if points[0][1] >= quality:
            return points[0][0]
        for (cost, score), (next_cost, next_score) in zip(points, points[1:]):
            if next_score >= quality:
                return cost + (next_cost - cost) * (quality - score) / (next_score - score)
        return None

    return least


def equal_quality_lines(directory, scores, metric):
    """What prompt controllers save beside evenly spaced layers of equal quality, and whether it is what was to be reached."""
    least, full, savings = uniform_cost(scores, metric), scores['full'], {}
    lines = []
    for name, made in scores.items():
        if name.startswith('prompt_'):
            beside, own = least(made[metric]), made['layer_flops'] / made['full_layer_flops']
            savings[name] = None if beside is None else 1 - own / beside
            reached = 'nowhere' if beside is None else f'{beside:.1%}'
            saved = 'better than every evenly spaced plan' if beside is None else f'{savings[name]:+.1%} saved'
            lines.append(
                f'- {name}: {own:.1%} of the full model’s layer FLOPs; uniform reaches its score at {reached}: {saved}.'
            )
    if not lines:
        return []
    best = max((saving for saving in savings.values() if saving is not None), default=None)
    reached = best is not None and best >= TARGET
    verdict = f'{TARGET:.0%} fewer are {"reached" if reached else "not reached"}'
    verdict += '' if best is None else f'; the most is {best:+.1%}'
    parts = ' and '.join(f'the {part} {full[f"{part}_flops"] / full["flops"]:.1%}' for part in ('prompt', 'head'))
    lines = [
        f'**Layer FLOPs at equal {metric}**, by linear interpolation between evenly spaced plans: {verdict}. Of the full '
        f'model’s operations {parts}, which neither saves.',
        '',
        *lines,
        '',
    ]
    path = directory / 'prompt' / 'model' / 'controller.json'
    if not reached and path.exists():
        plans = [plan for plan in read(path)['plans'] if plan['r_squared'] is not None]
        told = ', '.join(f'{plan["r_squared"]:+.3f} at {plan["layers"]:.3g} layers' for plan in plans)
        lines += [
            f'Why: of what a plan adds to the loss of a prompt that it has not seen, the controller tells R² = {told}.',
            '',
        ]
    return lines


def claim_lines(scores, analyses):
    """The paper's claims, each with what was found and whether that confirms it."""
    lines = [*state_claims(analyses.get('similarity')), *input_claims(scores), *oracle_claims(analyses)]
    return ['**The paper’s claims here.**', '', *lines, ''] if lines else []


def state_claims(content):
    """Evenly spaced layers are nearest in the final state, early exit in those that caches are of."""
    if content is None:
        return []
    lines = []
    claims = (('final', 'uniform', 'evenly spaced layers'), ('intermediate', 'exit', 'early exit'))
    for part, method, words in claims:
        means = {
            each['method']: {
                point['cost']: point[part]['mean'] for point in each['points'] if point['cost'] < content['layers']
            }
            for each in content['methods']
        }
        costs = [*means[method]]
        first = sum(means[method][cost] >= max(each.get(cost, -2) for each in means.values()) - 1e-6 for cost in costs)
        state = 'final state' if part == 'final' else 'states before it'
        lines.append(
            f'- {words} nearest the full model in the {state}: at {first} of {len(costs)} costs, {verdict(first, costs)}.'
        )
    return lines


def verdict(count, costs):
    """Whether a claim about all costs holds."""
    return 'confirmed' if count == len(costs) else 'not confirmed' if 2 * count <= len(costs) else 'confirmed in the main'


def input_claims(scores):
    """Controllers that read the hidden state are no better than those that read ones."""
    pairs, apart = [], 0
    for name in scores:
        other = name.replace('_hidden_', '_fixed_')
        if re.fullmatch(r'controllers_hidden_[\d.]+', name) and other in scores:
            difference = interval(scores[name]['each'], scores[other]['each'])
            low = float(re.split(r'[\[,]', difference)[1])
            apart += low > 0
            layers = f'{cell(scores[name]["layers"])} and {cell(scores[other]["layers"])} layers'
            pairs.append(f'α = {name.split("_")[2]}: {difference} ({layers})')
    if not pairs:
        return []
    found = 'confirmed' if apart == 0 else f'not confirmed at {apart} of {len(pairs)} α'
    return [f'- reading the hidden state is no better than reading ones: {found}; hidden less fixed {"; ".join(pairs)}.']


def oracle_claims(analyses):
    """A choice by text reaches the full model's score with a quarter of the layers, and what is left of that without luck."""
    if 'oracle' not in analyses:
        return []
    content = analyses['oracle']
    share = content['match']['of_layers']
    cheapest = min(plan['layers'] for plan in content['plans']) / content['num_layers']
    found = 'confirmed' if share <= 0.25 else f'not confirmed, of plans from {cheapest:.1%} of the layers up'
    line = f'- an oracle scores what all layers do with under a quarter of them: at {share:.1%}, {found}'
    gains = [
        gain for gain in analyses.get('attainable', {}).get('by_layers', {}).get('attainable_advantage', ()) if gain is not None
    ]
    return [f'{line}; without the luck of one decode a choice gains at most {cell(max(gains))}.' if gains else f'{line}.']
