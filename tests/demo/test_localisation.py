"""The demonstration's data: what is shipped, how it is drawn, and what the texts say."""

import datetime
import json
import re
import unicodedata

import pytest

from calm_jax.demo import localisation

SPLITS = ('tune', 'calibration', 'test')
MONTHS = (
    ('January', 'janvier'),
    ('February', 'février'),
    ('March', 'mars'),
    ('April', 'avril'),
    ('May', 'mai'),
    ('June', 'juin'),
    ('July', 'juillet'),
    ('August', 'août'),
    ('September', 'septembre'),
    ('October', 'octobre'),
    ('November', 'novembre'),
    ('December', 'décembre'),
)
WEEKDAYS = {
    'Monday': 'lundi',
    'Tuesday': 'mardi',
    'Wednesday': 'mercredi',
    'Thursday': 'jeudi',
    'Friday': 'vendredi',
    'Saturday': 'samedi',
    'Sunday': 'dimanche',
}


def shipped(split):
    lines = (localisation.ASSETS / f'{split}.jsonl').read_text(encoding='utf-8').splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def rows():
    return {split: shipped(split) for split in SPLITS}


@pytest.fixture
def babel():
    module = pytest.importorskip('babel', reason='Babel is only needed to make the data again')
    if module.__version__ != localisation.BABEL_VERSION:
        pytest.skip(f'the data are made with Babel {localisation.BABEL_VERSION}, found {module.__version__}')


class Scripted(localisation.Draws):
    """Draws whose outcomes are named: outcome k of n comes of the uniform number (k + ½) / n."""

    def __init__(self, *outcomes):
        self.numbers = [(k + 0.5) / n for k, n in outcomes]

    def uniform(self):
        return self.numbers.pop(0)


def the_day(year, month, day):
    """Outcome of the draw of a date."""
    return (datetime.date(year, month, day) - datetime.date(2000, 1, 1)).days, 21_915


def template(english):
    """Outcome of the draw of the one template that starts so."""
    starts = [each[0].startswith(english) for each in localisation.TEMPLATES]
    assert sum(starts) == 1
    return starts.index(True), len(starts)


# ---- what is shipped ----


def test_every_shipped_row_is_an_english_and_a_french_text(rows):
    for split, count in localisation.SHIPPED_ROWS.items():
        assert len(rows[split]) == count
        for row in rows[split]:
            assert list(row) == ['en', 'fr']
            assert all(isinstance(text, str) and text for text in row.values())


def test_no_text_holds_a_space_other_than_the_plain_one(rows):
    for split in SPLITS:
        for row in rows[split]:
            for text in row.values():
                spaces = {character for character in text if unicodedata.category(character)[0] in 'ZC'}
                assert spaces <= {' '}
                assert '  ' not in text and text == text.strip()
                assert text == unicodedata.normalize('NFC', text)


def test_the_shipped_files_stay_small():
    assert sum((localisation.ASSETS / f'{split}.jsonl').stat().st_size for split in SPLITS) < 200_000


def test_no_source_text_is_in_two_splits(rows):
    sources = {split: {row['en'] for row in rows[split]} for split in SPLITS}
    for split in SPLITS:
        part = 'tune' if split == 'tune' else 'held_out'
        assert {localisation.part_of(source) for source in sources[split]} == {part}
    # The parts keep training, tuning and held-out texts apart. Calibration and test are independent draws of one part:
    # that these two share no text is a fact of this seed, made likely by how many phrases there are.
    assert not sources['calibration'] & sources['test']


def test_one_source_text_has_one_translation(rows):
    translations = {}
    for split in SPLITS:
        for row in rows[split]:
            assert translations.setdefault(row['en'], row['fr']) == row['fr']


def test_calibration_and_test_rows_look_alike(rows):
    """Two-sample z-statistics of what can be counted in a text: of 6 independent ones, |z| > 4 has probability 4e-4."""
    features = (len, lambda text: sum(map(str.isdigit, text)), lambda text: text.count(':'))
    for side in ('en', 'fr'):
        for feature in features:
            means, variances = [], []
            for split in ('calibration', 'test'):
                values = [feature(row[side]) for row in rows[split]]
                mean = sum(values) / len(values)
                means.append(mean)
                variances.append(sum((value - mean) ** 2 for value in values) / len(values) ** 2)
            assert abs(means[0] - means[1]) < 4 * sum(variances) ** 0.5


def test_shipped_times_of_day_are_those_a_hand_written_rule_gives(rows):
    checked = 0
    for split in SPLITS:
        for row in rows[split]:
            french = []
            for hour, minute, half in re.findall(r'\b(\d{1,2}):(\d\d) ([AP]M)', row['en']):
                french.append(f'{int(hour) % 12 + 12 * (half == "PM"):02}:{minute}')
            assert re.findall(r'\b\d\d:\d\d\b', row['fr']) == french
            checked += len(french)
    assert checked > 300


def test_shipped_dates_are_those_a_hand_written_rule_gives(rows):
    checked = 0
    english = '|'.join(month for month, _ in MONTHS)
    for split in SPLITS:
        for row in rows[split]:
            for weekday, month, day, year in re.findall(rf'(?:(\w+day), )?({english}) (\d+), (\d{{4}})', row['en']):
                french = f'{day} {dict(MONTHS)[month]} {year}'
                assert (f'{WEEKDAYS[weekday]} {french}' if weekday else french) in row['fr']
                checked += 1
    assert checked > 300


def test_shipped_numbers_keep_their_digits(rows):
    """Grouping and decimal marks change and parts change places; outside dates and times no digit does."""
    checked = 0
    for split in SPLITS:
        for row in rows[split]:
            numbers = re.findall(r'(?<![\d/:])\d[\d,]*(?:\.\d+)?(?![\d/:])', row['en'])
            if ' AM' in row['en'] or ' PM' in row['en'] or '/' in row['en']:
                continue
            for number in numbers:
                number = number.rstrip(',')
                assert number.replace(',', ' ').replace('.', ',') in row['fr'], row
                checked += 1
    assert checked > 1_000


# ---- how rows are drawn ----


def test_shipped_rows_are_what_the_maker_makes_to_the_byte(babel, tmp_path):
    for split in SPLITS:
        localisation.write_split(tmp_path / f'{split}.jsonl', split, range(60))
        made = (tmp_path / f'{split}.jsonl').read_bytes()
        ours = (localisation.ASSETS / f'{split}.jsonl').read_bytes()
        assert ours.startswith(made) and made.count(b'\n') == 60
        for index in range(60, localisation.SHIPPED_ROWS[split], 20):
            assert localisation.row(split, index) == shipped(split)[index]


def test_a_row_is_a_function_of_seed_split_and_index(babel):
    forwards = [localisation.row('train', index) for index in range(20)]
    backwards = [localisation.row('train', index) for index in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert forwards != [localisation.row('train', index, seed=1) for index in range(20)]
    assert localisation.row('calibration', 0) != localisation.row('test', 0)


def test_training_texts_of_phrases_are_never_held_out(babel):
    for index in range(300):
        row = localisation.row('train', index)
        draws = localisation.Draws(localisation.SEED, 0, index)
        bare = draws.uniform() < 0.05
        assert bare or localisation.part_of(row['en']) == 'train'


def test_the_parts_take_three_quarters_and_an_eighth_each():
    parts = [localisation.part_of(f'text {n}') for n in range(8_000)]
    for part, share in (('train', 3 / 4), ('tune', 1 / 8), ('held_out', 1 / 8)):
        deviation = (8_000 * share * (1 - share)) ** 0.5
        assert abs(parts.count(part) - 8_000 * share) < 4 * deviation


def test_choices_are_inverse_transforms_of_the_uniform_numbers():
    draws = Scripted((0, 3), (2, 3), (0, 6), (5, 6))
    assert [draws.choice('abc'), draws.choice('abc'), draws.integer(5, 10), draws.integer(5, 10)] == ['a', 'c', 5, 10]
    # the stream itself, as PCG64 and SeedSequence define it: 53 bits of each output
    first = localisation.Draws(7, 0, 1)
    again = localisation.Draws(7, 0, 1)._generator.bit_generator.random_raw()
    assert first.uniform() == (again >> 11) / 2**53


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="no split named 'dev': expected one of train, tune, calibration, test"):
        localisation.row('dev', 0)


def test_a_babel_of_another_version_is_refused(babel, monkeypatch):
    monkeypatch.setattr(localisation, 'BABEL_VERSION', '2.0.0')
    localisation._babel.cache_clear()
    with pytest.raises(ValueError, match=r'made with Babel 2\.0\.0, found'):
        localisation.row('train', 0)
    localisation._babel.cache_clear()


# ---- what the texts say ----


def test_a_date_and_time_as_a_french_reader_writes_it(babel):
    first = next(i for i, each in enumerate(localisation.TEMPLATES) if each[0] == '{0} at {1}')
    draws = Scripted((first, len(localisation.TEMPLATES)), the_day(2031, 3, 4), (15, 24), (7, 60))
    assert localisation.phrase(draws) == ('Tuesday, March 4, 2031 at 3:07 PM', 'mardi 4 mars 2031 à 15:07')


def test_midnight_and_noon(babel):
    start = template('open from {0} to {1} until')
    draws = Scripted(start, (0, 24), (5, 60), (12, 24), (30, 60), the_day(2024, 8, 31), (0, 3))
    assert localisation.phrase(draws) == (
        'open from 12:05 AM to 12:30 PM until August 31, 2024',
        'ouvert de 00:05 à 12:30 jusqu’au 31 août 2024',
    )


def test_money_moves_its_symbol_and_its_marks(babel):
    euro, dollar = (localisation.CURRENCIES.index(code) for code in ('EUR', 'USD'))
    currencies = len(localisation.CURRENCIES)
    four_digits = ((3, 6), (1_234 - 1_000, 9_000))
    draws = Scripted(*four_digits, (0, 2), (50, 100), (euro, currencies))
    assert localisation._money(draws) == ('€1,234.50', '1\u202f234,50\xa0€')
    draws = Scripted(*four_digits, (1, 2), (dollar, currencies))
    assert localisation._money_in_words(draws) == ('1,234.00 US dollars', '1\u202f234,00 dollars des États-Unis')
    assert localisation.plain_spaces('1\u202f234,50\xa0€') == '1 234,50 €'


def test_speeds_names_and_relative_times(babel):
    speed = localisation.SPEEDS.index('kilometer-per-hour')
    draws = Scripted((1, 3), (12 - 10, 90), (0, 5), (4, 9), (speed, len(localisation.SPEEDS)), (0, 3))
    assert tuple(map(localisation.plain_spaces, localisation._speed(draws))) == (
        '12.5 kilometers per hour', '12,5 kilomètres par heure')  # fmt: skip
    zealand = localisation.TERRITORIES.index('NZ')
    assert localisation._territory(Scripted((zealand, len(localisation.TERRITORIES)))) == ('New Zealand', 'Nouvelle-Zélande')
    days = localisation.PERIODS.index('day')
    assert localisation._future(Scripted((days, 7), (2, 60), (0, 3))) == ('in 3 days', 'dans 3 jours')
    assert localisation._past(Scripted((days, 7), (0, 60), (0, 3))) == ('1 day ago', 'il y a 1 jour')
    assert localisation._future(Scripted((days, 7), (29, 60), (0, 3))) == ('in 30 days', 'dans 30 jours')


def test_round_numbers_agree_with_their_scale(babel):
    plain = localisation.plain_spaces
    one_and_a_half_million = ((0, 2), (15 - 11, 89), (1, 6), (0, 3))
    assert localisation._compact_number(Scripted(*one_and_a_half_million)) == ('1.5 million', '1,5 million')
    two_million = ((1, 2), (0, 998), (1, 6), (0, 3))
    assert localisation._compact_number(Scripted(*two_million)) == ('2 million', '2 millions')
    three_billion = ((1, 2), (1, 998), (3, 6), (2, 3))
    assert tuple(map(plain, localisation._compact_number(Scripted(*three_billion)))) == ('3B', '3 Md')


def test_lists_and_intervals(babel):
    codes = [localisation.TERRITORIES.index(code) for code in ('FR', 'JP', 'DE')]
    draws = Scripted((1, 3), *((code, len(localisation.TERRITORIES)) for code in codes), (0, 3))
    assert localisation._territories(draws) == ('France, Japan, and Germany', 'France, Japon et Allemagne')
    draws = Scripted(the_day(2031, 3, 4), (2, 60), (0, 2))
    assert tuple(map(localisation.plain_spaces, localisation._interval(draws))) == ('Mar 4 – 7, 2031', '4–7 mars 2031')


def test_every_template_uses_each_of_its_parts_once_on_both_sides():
    for english, french, parts in localisation.TEMPLATES:
        for side in (english, french):
            assert sorted(re.findall(r'\{(\d)\}', side)) == [str(n) for n in range(len(parts))]
