"""Shared by the studies of reflecting surfaces."""
