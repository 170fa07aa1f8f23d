"""Fuzzing: targets, and what runs them. See CONTRIBUTING.md."""
