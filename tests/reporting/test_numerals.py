"""Numbers as a reader expects them."""

import pytest

from calm_jax.reporting.numerals import column, deltas, number, percent


@pytest.mark.parametrize(
    ('value', 'written'),
    [
        (0, '0'),
        (0.05, '0.05'),
        (0.1, '0.1'),
        (3.2051, '3.21'),
        (8.0, '8'),
        (1014, '1,014'),
        (184.2, '184'),
        (-0.25, '−0.25'),
        (2.41e9, '2.41 G'),
        (40e6, '40 M'),
        (1.5e12, '1.5 T'),
        (4.1e-6, '4.1 × 10⁻⁶'),
        (-3e-5, '−3 × 10⁻⁵'),
        (2e21, '2 × 10²¹'),
        (None, '–'),
        (float('nan'), 'nan'),
        (float('inf'), 'inf'),
    ],
)
def test_a_number_has_three_significant_digits_and_no_trailing_zeros(value, written):
    assert number(value) == written


@pytest.mark.parametrize(
    ('share', 'written'), [(0, '0%'), (0.05, '5%'), (0.083, '8.3%'), (0.714, '71%'), (0.998, '99.8%'), (1, '100%'), (None, '–')]
)
def test_a_share_is_a_percentage(share, written):
    assert percent(share) == written


@pytest.mark.parametrize(
    ('values', 'written'),
    [
        ([8, 3.35, 5.5], ['8.00', '3.35', '5.50']),
        ([1, 20, 1014], ['1', '20', '1,014']),
        ([8.0, None], ['8', '–']),
        ([184.2, 91.64], ['184.20', '91.64']),
        ([0.61234, 0.6], ['0.6123', '0.6000']),
        ([38.3e6, 40e6], ['38.3 M', '40.0 M']),
        ([1.0, 0.0453, 0.0004], ['1.0000', '0.0453', '4 × 10⁻⁴']),
        ([-0.5, 0.25], ['−0.50', '0.25']),
        ([], []),
    ],
)
def test_a_column_has_one_number_of_decimals(values, written):
    assert column(values) == written


def test_tolerances_are_one_number_or_each_with_its_name():
    assert deltas([('', 0.1)]) == '0.1'
    assert deltas([('rougeL', 0.1), ('bleu', 0.25)]) == 'rougeL 0.1, bleu 0.25'
