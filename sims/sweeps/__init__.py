"""Parts of ``sims/adafortitran_sweeps.py``: who takes part, wrong conditions, tables and pictures."""
