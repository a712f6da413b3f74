"""Checkers of the lessons' exercises, one file per lesson."""
