"""Certify the smoothed classifier: what may be claimed of noisy votes, and at which radius."""
