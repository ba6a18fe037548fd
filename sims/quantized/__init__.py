"""Shared by the studies of coarsely quantised pilots."""
