"""The reference texts of a record: of one field or template, or of several."""

from collections.abc import Sequence

from calm_jax.data.jsonl import Template, value_of


def references(templates: Sequence[Template], record: dict, where: str = 'record') -> list[str]:
    """At least one text, in the order of the templates.

    A template of one bare field (`'fr'`, `'{fr}'`) whose value is a list gives a text for each of its items; any other gives
    one text. Raises ValueError, naming `where` (`file:line`), for a field that is not there, what is no text, and a record
    without any reference, its lists all being empty.
    """
    texts = []
    for template in templates:
        field = template.fields[0]
        items = value_of(record, field, where) if template.template in (field, f'{{{field}}}') else None
        if isinstance(items, list):
            texts += [template({field: item}, where) for item in items]
        else:
            texts.append(template(record, where))
    if not texts:
        raise ValueError(f'{where}: the list of references is empty; expected at least one, which may be the empty text')
    return texts
