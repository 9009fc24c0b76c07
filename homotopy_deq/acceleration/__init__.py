"""Skipping what has converged: kernels that are sparse in truth, and when they pay."""
