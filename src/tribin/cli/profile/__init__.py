"""``tribin profile``: how fast the kernels, a model and a training step are on this machine."""

import click

from tribin.cli.lazy_group import LazyGroup

COMMANDS = {
    "kernels": ("tribin.cli.profile.kernels:kernels", "Time kernels beside their baselines."),
    "model": ("tribin.cli.profile.model:model", "Time a model's evaluation and sampling."),
    "step": ("tribin.cli.profile.step:step", "Time the parts of a training step."),
    "compare": ("tribin.cli.profile.compare:compare", "Compare two results of one kind."),
    "tune": ("tribin.cli.profile.tune:tune", "Find the fastest launches of the kernels."),
}


@click.group(cls=LazyGroup, lazy_commands=COMMANDS)
def profile() -> None:
    """Time kernels, models and training steps, compare the results, and tune the kernels.

    The kernels are launched in the configurations of the committed launch table, or of the file
    that the environment variable TRIBIN_LAUNCH_TABLE names.
    """
