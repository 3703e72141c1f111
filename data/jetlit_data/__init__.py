"""Preparing corpora into litdata token chunks."""
