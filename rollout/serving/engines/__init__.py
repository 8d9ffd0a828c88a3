"""The runtimes that draw: one file per engine beside `interface.py`."""
