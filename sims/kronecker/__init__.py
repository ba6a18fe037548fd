"""Shared by the studies of Kronecker-structured sparse Bayesian learning."""
