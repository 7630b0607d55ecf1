"""English to French localisation: a small seq2seq task with an exact answer, made from Unicode CLDR.

A pair is a short English phrase holding dates, times, numbers, amounts of money, measurements or names, and the same
phrase for a French reader:

    'Tuesday, March 4, 2031 at 3:07 PM'   ->  'mardi 4 mars 2031 à 15:07'
    '€1,234.50 paid on May 2, 2027'       ->  'réglé le 2 mai 2027 : 1 234,50 €'

Every localised part is formatted by Babel from CLDR data; the words that connect the parts are our own (`TEMPLATES`).
Some target tokens can be copied (digits), some are looked up (names), some need work (24-hour time, agreement in number,
parts that change places): the depth a token needs varies, which is what the demonstration is about.

Spaces. CLDR writes no-break and thin spaces (U+00A0, U+202F, U+2009). On both sides every one of them becomes a plain
space, so that SentencePiece encodes and decodes each text without change.

Randomness. Row `index` of a split is a function of (seed, split, index) alone: its own PCG64 generator, read only
through `random()` and turned into choices by inverse transforms, so that no change in a library's samplers moves it.

Splits. The space of source texts is cut in three by a hash of the text *before* anything is drawn: a part for training,
one for tuning and one held out. A row is a draw from the one distribution of phrases, repeated until it falls in the
split's part. Calibration and test rows are therefore independent draws, with replacement, of one distribution (phrases
whose text is held out), which is what a certificate assumes; no row was removed because another row exists, and no
source text of training or tuning can be among them. Calibration and test may share a text only by chance. Training rows are
also mixed with bare names (`entry`), which belong to no template and are never held out.
"""

import datetime
import decimal
import functools
import hashlib
import json
import pathlib

import numpy as np

BABEL_VERSION = '2.18.0'
SEED = 20_310_304
# Rows of the shipped splits; the training split is made again when the model is retrained.
SHIPPED_ROWS = {'tune': 500, 'calibration': 1_000, 'test': 500}
TRAINING_ROWS = 60_000
ASSETS = pathlib.Path(__file__).parent / 'assets'

_STREAMS = {'train': 0, 'tune': 1, 'calibration': 2, 'test': 3}
_PARTS = {'train': 'train', 'tune': 'tune', 'calibration': 'held_out', 'test': 'held_out'}
_ENTRY_SHARE = 0.05  # of training rows

# ISO 3166, 639 and 4217 codes and CLDR unit identifiers: what the phrases speak of.
TERRITORIES = (
    'AF AL AM AO AR AT AU BA BD BE BG BO BR CA CD CF CH CI CL CM CN CO CR CU CY CZ DE DK DO DZ EC EE EG ES ET FI FR GB '
    'GE GH GL GN GR GT HN HR HT HU ID IE IL IN IQ IR IS IT JM JO JP KE KG KH KP KR KW KZ LA LB LT LU LV LY MA MD MG MK '
    'ML MM MN MR MT MU MX MY MZ NA NC NE NG NI NL NO NP NZ OM PA PE PG PH PK PL PT PY QA RE RO RS RU SA SE SG SI SK SN '
    'SO SY TD TG TH TN TR TW TZ UA UG US UY UZ VA VE VN YE ZA ZM ZW'
).split()
LANGUAGES = (
    'ar bg bn ca cs cy da de el en es et eu fa fi fr ga he hi hr hu hy id is it ja ka ko lt lv mt nl no pl pt ro ru sk '
    'sl sq sr sv sw ta th tr uk ur vi zh'
).split()
CURRENCIES = 'USD EUR GBP JPY CAD AUD CNY INR KRW BRL MXN ILS NZD CHF SEK NOK PLN'.split()
LENGTHS = 'kilometer meter centimeter mile foot inch light-year'.split()
QUANTITIES = (
    LENGTHS
    + (
        'kilogram gram tonne pound ounce liter milliliter gallon square-meter square-kilometer hectare acre cubic-meter '
        'kilowatt-hour kilowatt watt volt joule kilocalorie horsepower hectopascal'
    ).split()
)
SIZES = 'kilobyte megabyte gigabyte terabyte'.split()
SPEEDS = 'kilometer-per-hour meter-per-second mile-per-hour knot'.split()
TEMPERATURES = 'celsius fahrenheit'.split()
PERIODS = 'year month week day hour minute second'.split()


class Draws:
    """Choices by inverse transform from one stream of uniform numbers in [0, 1)."""

    def __init__(self, *key):
        self._generator = np.random.Generator(np.random.PCG64(list(key)))

    def uniform(self):
        return self._generator.random()

    def integer(self, low, high):
        """A whole number from low to high, both included, each as likely."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, items):
        return items[int(self.uniform() * len(items))]

    def magnitude(self, most_digits):
        """A positive whole number: first how many digits, then which; small numbers are as common as large ones."""
        digits = self.integer(1, most_digits)
        return self.integer(10 ** (digits - 1), 10**digits - 1)


@functools.cache
def _babel():
    """Returns the Babel modules (dates, lists, numbers, units) and the two locales, or says how to get the pinned one."""
    try:
        import babel
        from babel import dates, lists, numbers, units
    except ImportError:
        raise ValueError(
            f"Babel is needed to make the demo's data: install it with pip install 'calm_jax[demo]' (babel=={BABEL_VERSION})"
        ) from None
    if babel.__version__ != BABEL_VERSION:
        raise ValueError(
            f"the demo's data are made with Babel {BABEL_VERSION}, found {babel.__version__}: "
            f"install it with pip install 'calm_jax[demo]'"
        )
    return dates, lists, numbers, units, (babel.Locale('en'), babel.Locale('fr'))


def plain_spaces(text):
    """Replaces every Unicode space of a text (no-break, thin, …) by U+0020."""
    return ''.join(' ' if character.isspace() else character for character in text)


def _both(write, *arguments, **settings):
    """Applies one of Babel's functions for both locales: (English, French)."""
    return tuple(write(*arguments, locale=locale, **settings) for locale in _babel()[-1])


# ---- parts of a phrase: each takes the draws and returns (English, French) ----


def _day(draws):
    return datetime.date(2000, 1, 1) + datetime.timedelta(days=draws.integer(0, 21_914))  # up to the end of 2059


def _date(draws):
    # 'medium' abbreviates the month in English and only sometimes in French
    return _both(_babel()[0].format_date, _day(draws), format=draws.choice(('long', 'long', 'medium')))


def _weekday_date(draws):
    return _both(_babel()[0].format_date, _day(draws), format='full')


def _short_date(draws):
    return _both(_babel()[0].format_date, _day(draws), format='short')


def _month(draws):
    return _both(_babel()[0].format_skeleton, draws.choice(('yMMMM', 'yMMM')), _day(draws))


def _quarter(draws):
    return _both(_babel()[0].format_skeleton, draws.choice(('yQQQ', 'yQQQQ')), _day(draws))


def _weekday(draws):
    return _both(_babel()[0].format_date, _day(draws), format='EEEE')


def _time(draws):
    time = datetime.time(draws.integer(0, 23), draws.integer(0, 59))
    return _both(_babel()[0].format_time, time, format='short')


def _interval(draws):
    start = _day(draws)
    end = start + datetime.timedelta(days=draws.integer(1, 60))
    return _both(_babel()[0].format_interval, start, end, draws.choice(('yMMMd', 'yMMMEd')))


def _span(draws, sign, direction):
    dates = _babel()[0]
    unit = draws.choice(PERIODS)
    seconds = sign * draws.integer(1, 60) * dict(dates.TIMEDELTA_UNITS)[unit]
    # a high threshold keeps the drawn unit: 20 days stay days
    return _both(
        dates.format_timedelta, datetime.timedelta(seconds=seconds), granularity=unit, threshold=1_000,
        add_direction=direction, format=draws.choice(('long', 'long', 'short')),
    )  # fmt: skip


def _future(draws):
    return _span(draws, 1, True)


def _past(draws):
    return _span(draws, -1, True)


def _measured(draws, units, most_digits, lengths=('long', 'long', 'short')):
    number = decimal.Decimal(draws.magnitude(most_digits))
    if draws.uniform() < 0.4:
        number += decimal.Decimal(draws.integer(1, 9)) / 10
    return _both(_babel()[3].format_unit, number, draws.choice(units), length=draws.choice(lengths))


def _length(draws):
    return _measured(draws, LENGTHS, 4)


def _quantity(draws):
    return _measured(draws, QUANTITIES, 4)


def _size(draws):
    return _measured(draws, SIZES, 3)


def _speed(draws):
    return _measured(draws, SPEEDS, 3)


def _temperature(draws):
    return _measured(draws, TEMPERATURES, 2)


def _duration(draws):
    """One period ('3 days'), or two that follow each other ('3 hours, 20 minutes'), joined as each language does."""
    _, lists, _, units, _ = _babel()
    if draws.uniform() < 0.4:
        return _both(units.format_unit, draws.integer(1, 60), draws.choice(PERIODS), length='long')
    first, carry = draws.choice((('day', 24), ('hour', 60), ('minute', 60)))
    second = PERIODS[PERIODS.index(first) + 1]
    amounts = ((draws.integer(1, 30), first), (draws.integer(1, carry - 1), second))
    return tuple(
        lists.format_list([units.format_unit(*amount, length='long', locale=locale) for amount in amounts], 'unit', locale)
        for locale in _babel()[-1]
    )


def _sum(draws):
    number = decimal.Decimal(draws.magnitude(6))
    return number + decimal.Decimal(draws.integer(0, 99)) / 100 if draws.uniform() < 0.6 else number


def _money(draws):
    return _both(_babel()[2].format_currency, _sum(draws), draws.choice(CURRENCIES))


def _money_in_words(draws):
    return _both(_babel()[2].format_currency, _sum(draws), draws.choice(CURRENCIES), format_type='name')


def _round_number(draws):
    """A number of two significant digits, 1.1 thousand to 999 trillion."""
    tenths = decimal.Decimal(draws.integer(11, 99) if draws.uniform() < 0.5 else 10 * draws.integer(2, 999))
    return tenths * 10 ** draws.choice((2, 5, 5, 8, 8, 11))


def _compact_money(draws):
    number, currency = _round_number(draws), draws.choice(CURRENCIES)
    return _both(_babel()[2].format_compact_currency, number, currency, fraction_digits=1)


def _compact_number(draws):
    return _both(
        _babel()[2].format_compact_decimal, _round_number(draws), fraction_digits=1,
        format_type=draws.choice(('long', 'long', 'short')),
    )  # fmt: skip


def _number(draws):
    number = decimal.Decimal(draws.magnitude(7))
    if draws.uniform() < 0.3:
        number += decimal.Decimal(draws.integer(1, 999)) / 1_000
    return _both(_babel()[2].format_decimal, number)


def _percentage(draws):
    tenths = draws.integer(1, 999) if draws.uniform() < 0.5 else 10 * draws.integer(1, 99)
    return _both(_babel()[2].format_percent, decimal.Decimal(tenths) / 1_000, decimal_quantization=False)


def _territory(draws):
    code = draws.choice(TERRITORIES)
    return tuple(locale.territories[code] for locale in _babel()[-1])


def _language(draws):
    code = draws.choice(LANGUAGES)
    return tuple(locale.languages[code] for locale in _babel()[-1])


def _listed(draws, item):
    items = [item(draws) for _ in range(draws.choice((2, 3, 3)))]
    style = draws.choice(('standard', 'standard', 'or'))
    english, french = (list(side) for side in zip(*items, strict=True))
    return tuple(
        _babel()[1].format_list(side, style, locale) for side, locale in zip((english, french), _babel()[-1], strict=True)
    )


def _territories(draws):
    return _listed(draws, _territory)


def _languages(draws):
    return _listed(draws, _language)


# Phrases: (English, French, the parts they are made of). {0}, {1}, … are the parts in English order.
TEMPLATES = (
    ('{0} at {1}', '{0} à {1}', (_weekday_date, _time)),
    ('{0} at {1}', '{0} à {1}', (_date, _time)),
    ('{0} {1}', '{0} {1}', (_short_date, _time)),
    ('{0}, {1}', '{1} ({0})', (_territory, _interval)),
    ('open from {0} to {1}', 'ouvert de {0} à {1}', (_time, _time)),
    ('open from {0} to {1} until {2}', 'ouvert de {0} à {1} jusqu’au {2}', (_time, _time, _date)),
    ('meeting on {0}, from {1} to {2}', 'réunion le {0}, de {1} à {2}', (_weekday_date, _time, _time)),
    ('every {0} at {1}, {2} each', 'chaque {0} à {1}, {2} par personne', (_weekday, _time, _money)),
    ('{0} paid on {1}', 'réglé le {1} : {0}', (_money, _date)),
    ('{0} or {1}', '{0} ou {1}', (_money, _money)),
    ('{0} ({1} off) until {2}', '{0} ({1} de remise) jusqu’au {2}', (_money, _percentage, _short_date)),
    ('due {0}: {1}', '{1} à payer {0}', (_future, _money_in_words)),
    ('{0} received {1}', 'reçu {1} : {0}', (_money_in_words, _past)),
    ('from {0} to {1} since {2}', 'de {0} à {1} depuis {2}', (_compact_money, _compact_money, _month)),
    ('{0}: {1}, up {2}', '{0} : {1}, en hausse de {2}', (_quarter, _compact_money, _percentage)),
    ('up {0} since {1}', 'en hausse de {0} depuis le {1}', (_percentage, _weekday_date)),
    ('down {0} to {1}', 'en baisse de {0}, à {1}', (_percentage, _money)),
    ('population of {0}: {1}', 'population ({0}) : {1}', (_territory, _compact_number)),
    ('between {0} and {1}', 'entre {0} et {1}', (_number, _number)),
    ('{0} of {1}', '{0} sur {1}', (_percentage, _number)),
    ('{0} in {1}', '{0} en {1}', (_quantity, _duration)),
    ('either {0} or {1}', 'soit {0}, soit {1}', (_quantity, _quantity)),
    ('about {0} at {1}', 'environ {0} à {1}', (_length, _speed)),
    ('{0}, wind {1}', '{0}, vent à {1}', (_temperature, _speed)),
    ('last seen {0}, {1} away', 'vu {0}, à {1} d’ici', (_past, _length)),
    ('next train {0}, at {1}', 'prochain train {0}, à {1}', (_future, _time)),
    ('file of {0}, sent {1}', 'fichier de {0}, envoyé {1}', (_size, _past)),
    ('{0} lesson on {1}', 'cours le {1} : {0}', (_language, _weekday_date)),
    ('{0} in {1}, {2}', '{1} : {0}, {2}', (_languages, _territory, _month)),
    ('flights to {0} {1}', 'vols {1} : {0}', (_territories, _future)),
    ('{0}', '{0}', (_territories,)),
)  # fmt: skip

# What a bare entry may be: single names and amounts, seen in training only.
ENTRIES = (
    _territory, _territory, _language, _weekday, _month, _date, _time, _interval, _future, _past, _duration, _quantity,
    _speed, _money, _money_in_words, _compact_number, _percentage, _number,
)  # fmt: skip


def phrase(draws):
    """Draws one (English, French) phrase: a template, each as likely, then its parts."""
    english, french, parts = draws.choice(TEMPLATES)
    english_parts, french_parts = zip(*(part(draws) for part in parts), strict=True)
    return plain_spaces(english.format(*english_parts)), plain_spaces(french.format(*french_parts))


def entry(draws):
    """Draws one bare (English, French) entry, as 'New Zealand' -> 'Nouvelle-Zélande'."""
    return tuple(plain_spaces(side) for side in draws.choice(ENTRIES)(draws))


def part_of(source):
    """Returns the part of the text space a source text belongs to: 'train' (3/4), 'tune' (1/8) or 'held_out' (1/8)."""
    eighth = hashlib.sha256(source.encode()).digest()[0] >> 5
    return {6: 'tune', 7: 'held_out'}.get(eighth, 'train')


def row(split, index, seed=SEED):
    """Returns row `index` of a split as {'en': str, 'fr': str}, a function of its arguments alone.

    Raises ValueError where there is no such split, or no Babel at BABEL_VERSION.
    """
    if split not in _STREAMS:
        raise ValueError(f'no split named {split!r}: expected one of {", ".join(_STREAMS)}')
    draws = Draws(seed, _STREAMS[split], index)
    if split == 'train' and draws.uniform() < _ENTRY_SHARE:
        english, french = entry(draws)
        return {'en': english, 'fr': french}
    while True:
        english, french = phrase(draws)
        if part_of(english) == _PARTS[split]:
            return {'en': english, 'fr': french}


def write_split(path, split, indices, seed=SEED):
    """Writes the rows of a split with these indices as JSON lines in UTF-8."""
    with open(path, 'w', encoding='utf-8', newline='\n') as file:
        for index in indices:
            file.write(json.dumps(row(split, index, seed), ensure_ascii=False) + '\n')


def write_shipped_splits(directory=ASSETS, seed=SEED):
    """Writes tune.jsonl, calibration.jsonl and test.jsonl: the files that the package ships, to the byte."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in SHIPPED_ROWS.items():
        write_split(directory / f'{split}.jsonl', split, range(rows), seed)
