"""The tools that check, execute, build and edit the book; run as `python -m book._tools.NAME` from the root."""
