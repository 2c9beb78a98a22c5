"""``python -m tribin``: the command line."""

from tribin.cli import main

main(prog_name="tribin")
