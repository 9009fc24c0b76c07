"""Certify, decide and attack, and show what was certified."""
