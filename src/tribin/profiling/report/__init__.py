"""Results for people: a table and plots for each kind of profile."""

from importlib import import_module
from io import BytesIO
from pathlib import Path

from tribin.atomic_file import write_atomically
from tribin.errors import InputError
from tribin.profiling.report.text import paragraph, rate
from tribin.profiling.result import Result, write_result


def table(result: Result) -> str:
    """The table of a result, with a heading that names the machine; at most 100 columns wide."""
    text: str = _module(result).table(result)
    return f"{heading(result)}\n\n{text}"


def heading(result: Result) -> str:
    """Device, versions, commit and date; below, the clocks and the ceilings."""
    machine = result.provenance
    found = (name for name in ("torch", "triton", "cuda", "tribin") if machine.get(name))
    versions = ", ".join(f"{name} {machine[name]}" for name in found)
    clocks = ", ".join(f"{name} {value:,.0f} MHz" for name, value in result.clocks.items())
    ceilings = ", ".join(f"{name} {rate(name, value)}" for name, value in result.ceilings.items())
    lines = (
        f"{machine['device']}; {versions} ({_short(machine['commit'])}), {machine['date']}",
        f"clocks: {clocks or 'unknown'}",
        f"ceilings: {ceilings or 'unknown'}",
    )
    return "\n".join(paragraph(line, after=", ") for line in lines)


def _short(commit: str | None) -> str:
    digits, dash, state = (commit or "commit unknown").partition("-")
    return f"{digits[:14]}{dash}{state}"


def write_report(result: Result, folder: Path) -> None:
    """Write ``results.json``, ``table.txt`` and the plots, as far as matplotlib is there.

    Raises:
        InputError: if the folder can't be made or is not writable.
    """
    write_result(result, folder)
    try:
        write_atomically(folder / "table.txt", f"{table(result)}\n".encode())
        for name, image in plots(result).items():
            write_atomically(folder / f"{name}.png", image)
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be written: {error.strerror}") from error


def plots(result: Result) -> dict[str, bytes]:
    """The plots as PNG, by name; none without matplotlib."""
    try:
        import_module("matplotlib")
    except ImportError:
        return {}
    return {name: _png(figure) for name, figure in _module(result).plots(result).items()}


def _png(figure: object) -> bytes:
    image = BytesIO()
    figure.savefig(image, format="png", dpi=150)  # type: ignore[attr-defined]
    return image.getvalue()


def _module(result: Result):  # type: ignore[no-untyped-def]
    return import_module(f"{__name__}.{result.kind}")
