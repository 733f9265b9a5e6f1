"""Runs servers beside each other on one machine, measures them, and writes the page about it."""
