"""Weights & Biases as a guest: it may fail, but never stop or hold up a run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tribin.tracking.strict_json import Scalar

if TYPE_CHECKING:
    import wandb

WandbMode = Literal["online", "offline", "disabled"]
"""``online`` uploads while the run goes on, ``offline`` writes files to upload later."""

SETTINGS: dict[str, Any] = {
    "silent": True,  # banners would tear the progress bar
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "x_disable_stats": True,
    "init_timeout": 20.0,  # seconds
    "finish_timeout": 60.0,  # seconds; the default waits for ever
    "finish_timeout_raises": True,
}


class WandbRun:
    """One W&B run, or nothing once W&B has failed.

    The first exception of any call is reported in one line and turns W&B off for the rest of the
    process. ``images_seen`` is an ordinary metric that charts use as their x axis: W&B's own step
    starts again in each offline segment, images do not.

    Args:
        report: prints one line for the user.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._run: wandb.Run | None = None
        self._imported = False

    def start(
        self,
        mode: WandbMode,
        *,
        project: str | None,
        entity: str | None,
        run_dir: Path,
        run_id: str,
        name: str,
        config: Mapping[str, Any],
        resume: bool,
    ) -> None:
        """Start or resume the run ``run_id``, with its files in ``run_dir/wandb``.

        Without an API key or a connection, ``online`` becomes ``offline``; nothing is asked on the
        terminal. A resumed offline run writes a new segment with the same id, which ``wandb sync``
        appends. ``disabled`` does not even import wandb.
        """
        if mode == "disabled":
            return
        with self._guarded("start"):
            import wandb

            self._imported = True
            init = partial(
                wandb.init,
                project=project,
                entity=entity,
                dir=run_dir,
                id=run_id,
                name=name,
                config=dict(config),
                resume="allow" if resume else None,
                reinit="create_new",
                settings=SETTINGS,
            )
            # `mode` here as well: otherwise WANDB_MODE would decide whether there is a login.
            wandb.setup(wandb.Settings(silent=True, mode=mode))
            if mode == "online":
                self._run = self._start_online(init)
            else:
                self._run = self._start_offline(init, reason="as configured")
            self._run.define_metric("images_seen")
            self._run.define_metric("*", step_metric="images_seen")

    def log(self, images_seen: int, metrics: Mapping[str, Scalar]) -> None:
        """Add metrics after ``images_seen`` images."""
        if self._run is not None:
            with self._guarded("log"):
                self._run.log({"images_seen": images_seen, **metrics})

    def image(self, key: str, images_seen: int, png_path: Path) -> None:
        """Add one image, a copy of the PNG file, after ``images_seen`` images."""
        if self._run is not None:
            with self._guarded("image"):
                from wandb import Image

                self._run.log({"images_seen": images_seen, key: Image(str(png_path))})

    def finish(self, summary: Mapping[str, Scalar], *, failed: bool = False) -> None:
        """Add the final numbers, and wait (a minute at most) until everything is uploaded."""
        if self._run is not None:
            with self._guarded("finish"):
                self._run.summary.update(dict(summary))
                self._run.finish(exit_code=int(failed))
                self._run = None
        if self._imported:
            _end_service()

    def _start_online(self, init: "Callable[..., wandb.Run]") -> "wandb.Run":
        import wandb

        try:
            run = init(mode="online") if wandb.login(prompt=False, verify=False) else None
        except Exception as error:
            _end_service()  # it holds on to the id of the run that did not start
            wandb.setup(wandb.Settings(silent=True, mode="offline"))
            return self._start_offline(init, reason=f"after an error ({_first_line(error)})")
        if run is None:
            return self._start_offline(init, reason="without an API key (see `wandb login`)")
        self._report(f"W&B: {run.url}")
        return run

    def _start_offline(self, init: "Callable[..., wandb.Run]", reason: str) -> "wandb.Run":
        run = init(mode="offline")
        segments = Path(run.settings.wandb_dir) / "offline-run-*"
        self._report(f"W&B is offline {reason}; upload later with `wandb sync {segments}`")
        return run

    @contextmanager
    def _guarded(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._run = None
            self._report(
                f"warning: W&B is off from here on, `{action}` failed: {_first_line(error)}"
            )


def _end_service() -> None:
    import wandb

    # Where the service process has died, this raises, or exits from our process as well.
    with suppress(Exception, SystemExit):
        wandb.teardown()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
