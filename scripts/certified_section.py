"""A section of docs/results.md on certificates that hold their own measured speed, as `calm calibrate` wrote them."""

from page import cell, table

HEADS = ['δ', 'setting', 'λ', 'tested', 'mean loss', 'speed to full depth', 'tokens/s', 'tokens/s, full depth']


def certified_section(certificates: list[dict], commands: list[str]) -> str:
    """A line a certificate; what is the same of all of them, and how they were made."""
    first = certificates[0]
    data, speed = first['provenance']['data'], next((each['speed'] for each in certificates if each['speed']), {})
    words = [
        f'{data["examples"]:,} calibration examples of {data["name"]}, {first["objective"]} promises in {first["metric"]}, '
        f'ε = {first["epsilon"]:g}; full depth is decoded in flight as well. Batch size {speed.get("batch_size")}, '
        f'packed {speed.get("pack")}, {speed.get("device")}; '
        f'{speed.get("texts")} texts, median of {speed.get("rounds")} interleaved rounds '
        '(least–greatest).'
    ]
    return '\n'.join([*words, '', *table(HEADS, [_row(each) for each in certificates]), '', '```', *commands, '```'])


def _row(certificate):
    speed = certificate['speed']
    chosen = next((point for point in certificate['grid'] if point['decoding'] == certificate['decoding']), None)
    rejected = sum(bool(point['rejected']) for point in certificate['grid'])
    times = (
        ['–', '–', '–']
        if speed is None
        else [
            f'{speed["speed_up"]:.2f} ({speed["speed_up_least"]:.2f}–{speed["speed_up_greatest"]:.2f})',
            f'{speed["tokens_per_second"]:.0f}',
            f'{speed["tokens_per_second_full"]:.0f}',
        ]
    )
    return [
        f'{certificate["tolerance"]:g}',
        _setting(certificate['decoding']),
        cell(certificate['threshold']),
        f'{rejected} of {len(certificate["grid"])} valid',
        '–' if chosen is None else cell(chosen['mean_loss']),
        *times,
    ]


def _setting(decoding):
    """The measure and its vocabulary, by their short names."""
    if 'exit' not in decoding:
        return 'full depth'
    measure = decoding['exit']['measure']
    vocabulary = measure.get('vocabulary', {}).get('class')
    return measure['class'] + (f', {vocabulary}' if vocabulary else '')
