"""The hand-made RUN of `example/`, its page, and a reader of HTML."""

import html.parser
import json
import pathlib
import shutil
from types import SimpleNamespace

import pytest

from calm_jax.reporting import page, reader
from calm_jax.reporting.figures import Rendered

EXAMPLE = pathlib.Path(__file__).parent / 'example'
VOID = {'meta', 'link', 'img', 'input', 'br'}


class Node:
    """An element with its attributes; children are elements and strings."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    def text(self):
        return ''.join(child if isinstance(child, str) else child.text() for child in self.children)

    def classes(self):
        return (self.attributes.get('class') or '').split()

    def all(self, tag=None, cls=None):
        """Every element below, in document order, of a tag and a class."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if tag in (None, child.tag) and (cls is None or cls in child.classes()):
                    found.append(child)
                found += child.all(tag, cls)
        return found

    def by_id(self, name):
        return next((node for node in self.all() if node.attributes.get('id') == name), None)


class TreeBuilder(html.parser.HTMLParser):
    """Builds nodes and refuses tags that do not close in order."""

    def __init__(self):
        super().__init__()
        self.root = Node('document', ())
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, attrs)
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f'</{tag}> closes <{self.open[-1].tag}>'
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(text):
    builder = TreeBuilder()
    builder.feed(text)
    builder.close()
    assert builder.open == [builder.root]
    return builder.root


@pytest.fixture(scope='session', name='parse')
def parse_fixture():
    return parse


@pytest.fixture(scope='session')
def example():
    """The folder of the example RUN."""
    return EXAMPLE


@pytest.fixture(scope='session')
def composed():
    """The example's values, HTML, parsed page and PNG figures."""
    run = reader.read(EXAMPLE)
    text, images = page.compose(run)
    return SimpleNamespace(run=run, html=text, page=parse(text), images=images)


@pytest.fixture
def undrawn(monkeypatch):
    """Pages with a blank for every figure, for what is not about figures: drawing is what takes time."""
    monkeypatch.setattr(page, 'render', lambda drawing: Rendered(b'<svg/>', b'<svg/>', b'\x89PNG'))


@pytest.fixture
def some(tmp_path):
    """A function that copies some of the example's files into a RUN of its own, each changed by a function if given, and with
    the header that it has."""

    def copy(*names, change=None):
        folder = tmp_path / 'run'
        with_headers = [each for name in names for each in (name, f'{name}.config.json') if (EXAMPLE / each).exists()]
        for name in with_headers:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(EXAMPLE / name, target)
            if change is not None:
                content = json.loads(target.read_text(encoding='utf-8'))
                content = change(content) or content
                target.write_text(json.dumps(content), encoding='utf-8')
        return folder

    return copy
