"""What a misspelt name may have meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known name nearest to `name`, capitals aside; '' where none is near."""
    spellings = {each.lower(): each for each in sorted(known)}
    near = difflib.get_close_matches(name.lower(), spellings, n=1, cutoff=0.5)
    return f'; did you mean {spellings[near[0]]}?' if near else ''
