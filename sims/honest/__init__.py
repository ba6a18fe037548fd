"""Parts of ``sims/honest_fading.py``: the two trainings, tables and pictures."""
