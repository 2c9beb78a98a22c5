"""A campaign for a GPU: checks, measurements and short training runs, within half an hour."""
