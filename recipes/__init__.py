"""The recipes that ship with tribin: one YAML a run, ``<model>/<data>_<precision>.yaml``."""
