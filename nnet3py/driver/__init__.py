"""What the drivers in steps/ are made of: schedules, an experiment's state, diagnostics, reports.

A driver reaches the programs through a job engine only (``--cmd``), never by importing them, so that any stage can be
another program, a shell pipe or another machine. Nothing here imports NumPy.
"""
