"""An answer in the terminal, each token in the colour of the layers it took."""

from rich.console import Console
from rich.text import Text

from calm_jax.model import Model
from calm_jax.output import Output
from calm_jax.streamed_text import StreamedText

_SHALLOW, _DEEP = (0, 160, 90), (215, 60, 50)  # red, green, blue; of one layer, and of all


def print_depths(output: Output, model: Model, console: Console | None = None) -> None:
    """Prints the text of an output, and in a terminal a line that says which colours are which depths."""
    console, layers = console or Console(), model.config.num_decoder_layers
    if not console.is_terminal:
        print(output.text, file=console.file)  # as it is: a console replaces tabs
    else:
        console.print(coloured(output, model), soft_wrap=True)
        legend = Text.assemble('layers ', *((f' {depth} ', _style(depth, layers)) for depth in range(1, layers + 1)))
        console.print(legend.append(f'  {output.layers:.2f} per token'), soft_wrap=True)


def coloured(output: Output, model: Model) -> Text:
    """The text, each part of it as its token's depth is shown; a character of several tokens as its last."""
    text, streamed, style = Text(), StreamedText(model.tokenizer), ''
    for token, depth in zip(output.tokens, output.exit_layers):
        if token not in model.config.eos_ids:
            style = _style(depth, model.config.num_decoder_layers)
            text.append(streamed.add(token), style)
    return text.append(streamed.end(), style)


def _style(depth: int, layers: int) -> str:
    """The colour of a depth, from 1 to all layers."""
    share = (depth - 1) / max(1, layers - 1)
    return 'rgb({},{},{})'.format(*(round(low + share * (high - low)) for low, high in zip(_SHALLOW, _DEEP)))
