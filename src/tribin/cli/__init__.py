"""The command line: ``tribin COMMAND``, one module a command.

Exit codes: 0 done, 2 bad input or a failed disk, 3 stopped by a guard (a value not finite, or
processes that disagree), 75 stopped by a signal.
"""

from typing import IO, Any

import click

from tribin.cli.lazy_group import LazyGroup
from tribin.errors import DisagreementError, InputError, NonFiniteError, StoppedError

# A command's module is imported when the command is used: ``tribin --help`` needs no torch.
COMMANDS = {
    "train": ("tribin.cli.train:train", "Train a recipe."),
    "resume": ("tribin.cli.train:resume", "Go on with a run that was cut."),
    "checkpoints": ("tribin.cli.checkpoints:checkpoints", "List and verify a run's checkpoints."),
    "evaluate": (
        "tribin.cli.evaluate:evaluate",
        "Measure bits per dimension.",
    ),
    "sample": ("tribin.cli.sample:sample", "Draw images."),
    "export": ("tribin.cli.export:export", "Write a run as one packed file."),
    "info": ("tribin.cli.info:info", "Print a model's parameters, bytes and multiply-adds."),
    "study": ("tribin.cli.study:study", "Train many recipes, and put them into one table."),
    "compare": ("tribin.cli.compare:compare", "Measure models side by side."),
    "profile": ("tribin.cli.profile:profile", "Time kernels, models and training steps."),
    "recipe": ("tribin.cli.recipe:recipe", "List, show, check and compare recipes."),
}


class _Main(LazyGroup):
    """Gives tribin's errors their exit codes."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; what it raises for the user ends as one message and an exit code."""
        try:
            return super().invoke(context)
        except InputError as error:
            raise _BadInput(str(error)) from error
        except (NonFiniteError, DisagreementError) as error:
            raise _StoppedByGuard(str(error)) from error
        except StoppedError as error:
            raise _Stopped(str(error)) from error
        except ValueError as error:
            from tribin_kernels.launch_table import LaunchTableError  # it imports torch

            if isinstance(error, LaunchTableError):
                raise _BadInput(str(error)) from error
            raise


class _Failure(click.ClickException):
    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"tribin: {self.message}", file=file, err=True)


class _BadInput(_Failure):
    exit_code = 2


class _OfAllProcesses(_Failure):
    """What stops all processes of a distributed run alike; that of rank 0 says it."""

    def show(self, file: IO[Any] | None = None) -> None:
        from tribin.distributed import is_first  # it imports torch

        if is_first():
            super().show(file)


class _StoppedByGuard(_OfAllProcesses):
    exit_code = 3


class _Stopped(_OfAllProcesses):
    exit_code = 75


@click.group(name="tribin", cls=_Main, lazy_commands=COMMANDS)
@click.version_option(package_name="tribin")
def main() -> None:
    """Train, measure and ship deep generative models with 1-bit weights."""
