"""`python -m hybridlib`: what `make` calls. Errors are one line: status 2 for a bad parameter."""

import argparse
import os
import signal
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from hybridlib.store import paths, values
from hybridlib.store.errors import OneLineError, ParameterError
from hybridlib.store.lock import only_here

DEFAULT = "organism"
HEADLINE = "organism"  # the preset whose verdicts a reader finds first


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: else a file or a socket would get its number
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    options = _parser().parse_args(arguments)
    warnings.filterwarnings("ignore")  # of tools: no concern of a study's reader
    os.environ["PYTHONWARNINGS"] = "ignore"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # "frozen modules are being used"
    try:
        status = options.command(options) or 0
        sys.stdout.flush()  # now, and not when nobody could say why it fails
        return status
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed again: it ends already
        return _end(130, "\nstopped; the same command goes on from here")
    except OneLineError as error:
        status = 2 if isinstance(error, ParameterError) else 1
        return _end(status, f"{type(error).__name__}: {error}")
    except BrokenPipeError:
        return _end(141, "stopped, as nobody reads the output; the same command goes on from here")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        why = f"{type(error).__name__}: {error.strerror or error}{where}"
        return _end(1, f"{why}; mend that, and the same command goes on from here")


def _end(status: int, said: str) -> int:
    """Say why a command ended, if that can be said, and leave nothing to be written at the exit."""
    with suppress(OSError):
        print(said, file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def study(options: argparse.Namespace) -> int | None:
    """Execute 00_study and show its output as it comes; with `dry_run`, only print the plan."""
    from hybridlib.config import checked, load_config

    preset, overrides = _overrides(options)
    dry_run = checked("dry_run", overrides.pop("dry_run", False), bool)
    config = load_config(preset, **overrides)

    # Here: they take seconds to import, and a wrong parameter should be answered at once.
    from papermill import PapermillExecutionError

    from hybridlib.study.grid import outline, plan
    from hybridlib.study.jobs import default_workers
    from hybridlib.study.notebook import error_in, execute

    if dry_run:
        print(outline(plan(config), config.study.workers or default_workers()))
        return None
    output = paths.local(config.preset) / "notebooks" / "00_study.ipynb"
    try:
        with only_here(paths.local(config.preset)):
            output.parent.mkdir(exist_ok=True)
            execute(paths.NOTEBOOKS / "00_study.ipynb", output, {"preset": preset} | overrides)
    except PapermillExecutionError:
        print(f"{error_in(output)}\n(all of it is in {os.path.relpath(output)})", file=sys.stderr)
        return 1


def params(options: argparse.Namespace) -> None:
    """List the parameters of a preset by group: name, value, range, meaning."""
    from hybridlib.config import load_config
    from hybridlib.study.parameters import listing

    print(listing(load_config(options.preset)))


def figures(options: argparse.Namespace) -> None:
    """Redraw every figure of the committed tables, or only some."""
    from hybridlib.figures import registry, style
    from hybridlib.figures.results import Results
    from hybridlib.publish.release import redraw

    if not options.only:
        redraw(options.preset)
        return
    folder = paths.committed(options.preset)
    drawn = sorted(path.stem for path in (folder / "figures").glob("*.png"))
    if not drawn:
        again = f"`make study PRESET={options.preset}`, then `make publish PRESET={options.preset}`"
        raise ParameterError(f"there are no committed figures of {options.preset}: run {again}")
    if lost := [name for name in options.only if name not in drawn]:
        raise ParameterError(f"{options.preset} has no figure {lost[0]!r}, but {', '.join(drawn)}")
    for name in options.only:
        figure = registry.figures()[name].draw(Results(folder))
        print(os.path.relpath(style.save(figure, folder / "figures", name)))


def compare(options: argparse.Namespace) -> int:
    """Compare the local results with the committed ones."""
    from hybridlib.publish.release import compare

    return compare(options.preset)


def publish(options: argparse.Namespace) -> None:
    """Replace the committed results by the local ones, the model cards and the tables in docs/."""
    from hybridlib.publish.release import publish

    publish(options.preset)


def docs(options: argparse.Namespace) -> None:
    """Write the tables in docs/ again from the committed results."""
    from hybridlib.publish.docs import write
    from hybridlib.store.replace import recover_all

    recover_all(paths.PROJECT / "results")
    write(paths.PROJECT / "docs")


def site(options: argparse.Namespace) -> None:
    """Build all committed results as a static site, which is read without a network."""
    from hybridlib.publish.site import build

    place = paths.PROJECT / "results" / "local" / "site"
    print(os.path.relpath(build(paths.PROJECT, HEADLINE, place)))


def merge(options: argparse.Namespace) -> None:
    """Bring in the replicates of other machines: files or folders, or else the committed ones."""
    from hybridlib.config import load_config
    from hybridlib.study.replicates import merge

    seeds = merge(load_config(options.preset), [Path(place) for place in options.places])
    print(f"{len(seeds)} replicates are in: {', '.join(map(str, seeds))}")
    print(f"`make study PRESET={options.preset}` runs the others and makes the tables of all")


def tune(options: argparse.Namespace) -> None:
    """Choose the learning rates that are missing, by a grid on development replicates."""
    from hybridlib.study.tune import tune

    print(tune(options.preset).to_string(index=False))


def sweep(options: argparse.Namespace) -> None:
    """Train each hybrid over the values of its main parameter."""
    from hybridlib.config import load_config
    from hybridlib.study.sweep import sweep

    preset, overrides = _overrides(options)
    load_config(preset, **overrides)  # no parameter is an argument of sweep
    sweep(preset, **overrides)


def bench(options: argparse.Namespace) -> None:
    """Time a GRPO step against TRL's unchanged one, and the default study."""
    if not find_spec("bench"):
        raise OneLineError("bench/ is not part of the package: run this in a clone of the project")
    from bench.bench import bench

    bench(options.parts)
    docs(options)


def _overrides(options: argparse.Namespace) -> tuple[str, dict]:
    """The preset, and the parameters of files, then those of the command line, as text; of one
    that is given again the last counts. Raises ParameterError for a file that holds none."""
    given = {"preset": options.preset}
    for file in options.file:
        given |= values.read(Path(file))
    given |= dict(options.parameter)
    return given.pop("preset"), given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hybridlib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    again = {"action": "append", "default": []}
    reading = (params, figures, compare, publish, docs, site)
    for command in (study, *reading, merge, tune, sweep, bench):
        name, text = command.__name__, command.__doc__
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        if command is bench:
            parts = [[], "steps", "curves", "scaling", "study"]
            sub.add_argument("parts", nargs="*", choices=parts, metavar="PART")
        elif command not in (docs, site):
            sub.add_argument("preset", nargs="?", default=DEFAULT, metavar="PRESET")
        if command is merge:
            text = "a replicate, or a folder that holds some, of the same study"
            sub.add_argument("places", nargs="*", metavar="PLACE", help=text)
        if command is figures:
            text = "only this figure (may be given again)"
            sub.add_argument("--only", metavar="FIGURE", help=text, **again)
        if command in (study, sweep):
            text, pair = "override a parameter of the preset (the last counts)", ("NAME", "VALUE")
            sub.add_argument("-p", "--parameter", nargs=2, metavar=pair, help=text, **again)
            text = "override parameters by a YAML file"
            sub.add_argument("-f", "--file", metavar="FILE", help=text, **again)
    return parser


if __name__ == "__main__":
    sys.exit(main())
