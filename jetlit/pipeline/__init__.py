"""Stages of a run: what is finished is skipped, what changed is redone, what was interrupted goes on."""
