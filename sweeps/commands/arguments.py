"""Arguments of every command. To parse them and to show help takes the standard library and YAML files alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.help_text import HelpFormatter, config_help, help_width

EXIT_CODES = """Exit codes: 0 a trial passed, 3 none did, 2 bad input, 130 interrupted, 1 a fault of
gatesweep, or trials that all fail alike."""

RUN_HELP = f"""Run a sweep: gatesweep run experiment=walk_transformer training.max_epochs=30

Every KEY=VALUE is an override in Hydra's grammar. --cfg prints the configuration that they compose to. After an
interruption, resume=results/latest goes on with the sweep.

Your own code: gatesweep run sweep.yaml num_samples=20; `gatesweep init` writes such a file. Five keys are enough:

  function     module:name, or trainable: with its _target_ (and data:)
  space        lr: [1.0e-4, 1.0e-1, log] is a range, so is [0, 1, linear]; [8, 32, 128] are choices, [8, 32] too
  gate         val/accuracy: "> 0.95", one line a metric
  max_epochs   of a trial
  num_samples  the number of trials

{EXIT_CODES}"""

TRAIN_HELP = f"""Train once, without Ray: gatesweep train experiment=walk_transformer trainable.lr=0.003

The record is that of a sweep's trial, under results/latest_run. --resume goes on with it, or with another FOLDER;
--config results/latest/trial_0003/config.yaml trains that trial again.

{EXIT_CODES}"""

INIT_HELP = """Write a sweep of your own code: gatesweep init mine && gatesweep run mine/sweep.yaml

Writes sweep.yaml and train.py, a function that trains, or with --trainable net.py, a model and its data. They run as
they are; change them. No file is overwritten.

Exit codes: 0, and 2 where a file is there already."""

CHECK_HELP = """Check your own trainable or function: gatesweep check mine:Net, from any folder

Prints one line a check: passed, failed, or - where it does not apply. It learns, reports the metrics of its gate,
resumes bit by bit. A trainable also uses every parameter, has data that follow the epoch, and trains on two ranks to
equal weights; its oracle passes the gate and its trivial baseline does not, where it has them.

A key that is none of a configuration's is an argument of mine:Net: width=16. The data are of the class that annotates
the constructor's first argument, or data=mine:Points. Three epochs are trained on the CPU; max_epochs=9 are more.
With a FILE.yaml of your own, its trainable, data and gate are checked, at a point of its space.

Exit codes: 0, 1 where a check failed, and 2 for bad input."""

REPORT_HELP = """Write the report of a sweep again: gatesweep report results/latest

Writes summary.json, leaderboard.csv and report.html, also for a sweep that was killed before it could, and prints the
leaderboard. While a sweep runs, only the page is written.

Exit codes: 0, and 2 for bad input."""

EVALUATE_HELP = """Evaluate a trained model on a split: gatesweep evaluate results/latest trial_0003 split=test

Writes evaluation_test/ into the trial's folder: report.html, one page with metrics and figures, metrics.json, and the
figures as files. A sweep evaluates its winners on test by itself; this is for other trials and splits, and for figures.

  FOLDER  of a sweep, or of a run: results/latest_run
  TRIAL   a trial of the sweep, or its run on a fresh seed; by default the best
  split   train, val or test (test)

Exit codes: 0 the model clears the gate on the split, 3 it does not, 2 bad input."""

COMPARE_HELP = """Compare sweeps: gatesweep compare results/A results/B --html compare.html, or results/*

Sweeps that still run, or were interrupted, are taken as they are.

Exit codes: 0, and 2 where there is none to compare."""

PUBLISH_HELP = """Publish a sweep to MLflow: gatesweep publish results/latest tracking.uri=http://host:5000

MLflow is a projection of the run directories. Runs are found by their tags and points carry the time at which they
were recorded, so publishing again, or onto another server, changes nothing that is already there.

Exit codes: 0, and 2 for bad input or where MLflow cannot be reached."""

REPLAY_HELP = """Replay sweeps with another scheduler or search: gatesweep replay results/latest grace_period=2,5

Replays the curves of sweeps whose trials ran to their end (recorded with search=random scheduler=none) in virtual time,
with the schedulers and samplers of a sweep. A choice of values, as above, replays each; scheduler=asha,median too. Keys
are those of a sweep: scheduler (asha, unless named), grace_period, search, num_samples, max_concurrent,
stop_after_passes, time_budget (virtual seconds), seed. With search=, each proposal of the sampler becomes the nearest
recorded trial not used yet (in the unit cube of the space, unequal choices 1 apart); without, the trials come shuffled.

  stopped      of the trials that ended
  false kills  of the trials that pass if nobody stops them, those that were stopped
  epochs       trained, of those that the same trials have in full
  passed       trials, on average, of those that began
  first pass   virtual seconds: the median over replicas and the quartiles ("never" where it did not come)
  seconds      of the whole sweep, virtual: the median

An epoch takes the seconds that it took when it was recorded, and a trial's start the median of the record.

Exit codes: 0, and 2 for bad input."""

UI_HELP = """Show a results folder in MLflow's UI, on this machine alone: gatesweep ui results --port 5001

Serves the folder's mlflow.db on 127.0.0.1 until Ctrl-C.

Exit codes: 2 where there is no mlflow.db or the port is taken; else that of MLflow's server."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors, and whose help ends with `more()`, which is asked only for help."""

    def __init__(self, more: Callable[[], str] | None = None, **options: Any) -> None:
        super().__init__(formatter_class=lambda prog: HelpFormatter(prog, width=help_width()), **options)
        self.more = more

    def error(self, message: str) -> NoReturn:
        """Raise InputError in one line, in the place of a usage and an exit."""
        raise InputError(f"{message}; {self.prog} --help shows what is expected")

    def format_help(self) -> str:
        text = super().format_help()
        return f"{text}\n{self.more()}\n" if self.more else text


@dataclass(frozen=True)
class Command:
    """A command of gatesweep: the line that `gatesweep --help` shows, its help, its arguments, and what does the work.

    `work` is a "module:function" that takes the parsed arguments and returns the exit code; imported after parsing.
    """

    summary: str
    description: str
    work: str
    add_arguments: Callable[[Parser], None]
    more: Callable[[Sequence[str]], str] | None = None
    takes_long: bool = False  # to start: it says at once that it does


def make_parser(name: str, argv: Sequence[str] = ()) -> Parser:
    """The parser of a command's arguments; its help is of the sweep that the words of `argv` ask for."""
    command = COMMANDS[name]
    more = partial(command.more, argv) if command.more else None
    parser = Parser(prog=f"gatesweep {name}", description=command.description, more=more)
    command.add_arguments(parser)
    return parser


def parse(name: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command, by default those of the process. Raises InputError, and SystemExit after `--help`."""
    return make_parser(name, sys.argv[1:] if argv is None else argv).parse_intermixed_args(argv)


def _add_run(parser: Parser) -> None:
    words = "in Hydra's grammar: training.max_epochs=30; before them, a FILE.yaml of your own"
    parser.add_argument("overrides", nargs="*", metavar="FILE | KEY=VALUE", help=words)
    groups = "a folder with groups of your own, beside those below: experiment/, trainable/, ..."
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help=groups)
    parser.add_argument("--cfg", action="store_true", help="print the configuration and exit")
    _add_trust(parser)


def _add_train(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="FOLDER", help="go on with a run; default: results/latest_run"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a config.yaml to start from")


def _add_trust(parser: Parser) -> None:
    code = "a module whose classes a folder's config.yaml may name, beside gatesweep's own; may be repeated"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=code)


def _add_report(parser: Parser) -> None:
    parser.add_argument("sweep", type=Path, metavar="FOLDER", help="of a sweep, e.g. results/latest")
    _add_trust(parser)


def _add_evaluate(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a sweep or of a run, e.g. results/latest")
    words = "a trial, by default the best; split=train, split=val or split=test"
    parser.add_argument("words", nargs="*", metavar="TRIAL | split=SPLIT", help=words)
    _add_trust(parser)


def _add_compare(parser: Parser) -> None:
    parser.add_argument("sweeps", type=Path, nargs="+", metavar="FOLDER", help="of a sweep, e.g. results/latest")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page, too")


def _add_publish(parser: Parser) -> None:
    parser.add_argument("sweep", type=Path, metavar="FOLDER", help="of a sweep, e.g. results/latest")
    another = "tracking.uri=URI or tracking.experiment=NAME, in the place of the sweep's own"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=another)
    parser.add_argument("--follow", action="store_true", help="go on until standard input closes")


def _add_init(parser: Parser) -> None:
    folder = "where the files go; by default the working folder"
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help=folder)
    parser.add_argument("--trainable", action="store_true", help="a class over the contract, instead of a function")


def _add_check(parser: Parser) -> None:
    words = "module:name of a class or function, or a FILE.yaml of your own; then what to change"
    parser.add_argument("words", nargs="+", metavar="NAME | KEY=VALUE", help=words)
    _add_trust(parser)


def _add_replay(parser: Parser) -> None:
    parser.add_argument("arguments", nargs="+", metavar="SWEEP | KEY=VALUE", help="folders of sweeps, and what to vary")
    parser.add_argument("--replicas", type=int, default=100, metavar="N", help="simulated sweeps a setting (100)")
    parser.add_argument("--in-order", action="store_true", help="the trials as they came, once, instead of shuffled")
    save = "write the curves of one sweep there, a few kB, and replay none"
    parser.add_argument("--save", type=Path, metavar="FOLDER", help=save)
    _add_trust(parser)


def _add_ui(parser: Parser) -> None:
    folder = "a results folder (GATESWEEP_RESULTS, else results)"
    parser.add_argument("results", type=Path, nargs="?", metavar="FOLDER", help=folder)
    parser.add_argument("--port", type=_port, default=5000, metavar="PORT", help="on 127.0.0.1 (5000)")


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a port, 1 to 65535")
    return int(text)


def _work(name: str, function: str) -> str:
    return f"gatesweep.sweeps.commands.{name}:{function}"


COMMANDS: dict[str, Command] = {
    "run": Command("run a sweep", RUN_HELP, _work("run", "sweep_command"), _add_run, config_help, True),
    "train": Command(
        "train once, without Ray", TRAIN_HELP, _work("train", "train_command"), _add_train, config_help, True
    ),
    "init": Command("write a sweep of your own code", INIT_HELP, _work("init", "init_command"), _add_init),
    "check": Command("check your own code", CHECK_HELP, _work("check", "check_command"), _add_check),
    "report": Command("write the report of a sweep again", REPORT_HELP, _work("report", "report_command"), _add_report),
    "evaluate": Command(
        *("evaluate a trained model on train, val or test", EVALUATE_HELP),
        *(_work("evaluate", "evaluate_command"), _add_evaluate),
    ),
    "compare": Command("show sweeps side by side", COMPARE_HELP, _work("compare", "compare_command"), _add_compare),
    "publish": Command(
        "send a sweep's record to MLflow", PUBLISH_HELP, _work("publish", "publish_command"), _add_publish
    ),
    "replay": Command(
        *(
            "simulate other schedulers and searches over recorded curves",
            REPLAY_HELP,
            _work("replay", "replay_command"),
        ),
        *(_add_replay, lambda words: config_help(words, ["scheduler", "search"], keys=False)),
    ),
    "ui": Command("show a results folder in MLflow's UI, on 127.0.0.1", UI_HELP, _work("ui", "ui_command"), _add_ui),
}
