"""What notebooks show next to their text: figures with findings, curves, code, responses."""

import base64
import html
import inspect
import io
import textwrap
from collections.abc import Callable, Mapping

import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hybridlib.figures import findings
from hybridlib.figures.prose import say, tabulate
from hybridlib.figures.registry import figures
from hybridlib.figures.results import Results
from hybridlib.figures.style import save, styled
from hybridlib.tasks import prompts
from hybridlib.tasks.lexicon import END_THINK, LEXICON, vocabulary
from hybridlib.tasks.responses import words_of

table = tabulate  # beside `figure` and `curves`, as notebooks call it
_KNOWN = frozenset(vocabulary())


def figure(results: Results, name: str) -> None:
    """Draw a figure, save it into the results, display it and the findings that hold under it.

    Where the preset lacks a table of the figure, a line says so, and one of an earlier study goes.
    """
    declared = figures()[name]
    if lacks := declared.lacks(results):
        (results.folder / "figures" / f"{name}.png").unlink(missing_ok=True)
        return say(f"*The figure `{name}` is left out: {lacks}.*")
    png = save(declared.draw(results), results.folder / "figures", name)
    _image(png.read_bytes(), f"{declared.headline(results)} {declared.alt}")
    held = findings.of(results, declared.notebook)
    say("\n\n".join(f"> {f.text(results)}" for f in held if f.figure == name))


def _image(png: bytes, alt: str) -> None:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    display(HTML(f'<img alt="{html.escape(alt)}" style="max-width:100%" src="{source}">'))


@styled()
def curves(frame: pd.DataFrame, panels: Mapping[str, str], alt: str) -> None:
    """Display columns of `frame` over its column `step`; `panels`: column -> label of its axis."""
    fig = Figure(figsize=(4.6 * len(panels), 3))
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        mark = "o" if len(frame) < 10 else ""
        ax.plot(frame.step, frame[column], color="#0072b2", linewidth=2, marker=mark)
        ax.set(xlabel="optimiser step", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=60, metadata={"Software": None})
    _image(png.getvalue(), alt)


def code(function: Callable) -> None:
    """Display the code that runs."""
    source = textwrap.dedent(inspect.getsource(function))
    display(Markdown(f"`{function.__module__}.{function.__qualname__}`:\n```python\n{source}```"))


def first_words(text: str, count: int = 16) -> str:
    """The first words of a text, with dots where it goes on.

    What is not all in the tasks' own words may be or follow a request for real harm: of that the
    first four are shown.
    """
    words = text.split()
    if any(not (w in _KNOWN or w.isdecimal()) for w in words_of(text).split()):
        count = min(count, 4)
    return " ".join(words[:count]) + (" ..." if len(words) > count else "")


def question(prompt: str) -> str:
    """The user's own words in a prompt, attack included; of a public request the first ones."""
    return first_words(prompts.question_of(prompt), 100)


def examples(prompt: prompts.Prompt, with_thought: bool = True) -> dict[str, str]:
    """Responses to a harmful prompt, the last one desired: what it does -> response."""
    language = prompt.language
    thought, disclosed = prompts.thought(prompt, language), prompts.disclosure(prompt, language)
    refusal = LEXICON[language]["refusals"][0]
    parts = {
        "complies": (thought, disclosed),
        "superficial refusal": (thought, f"{refusal} {disclosed}"),
        "discloses in the trace, then refuses": (f"{thought} {disclosed}", refusal),
        "refuses, nothing disclosed": (thought, refusal),
    }
    if not with_thought:
        del parts["discloses in the trace, then refuses"]
    found = {does: prompts.join(*both, with_thought) for does, both in parts.items()}
    if not with_thought:  # still three bad ones: this has no closing tag
        found = {"malformed": found["complies"].replace(END_THINK, "").strip()} | found
    return found
