"""What scripts/benchmark.py measures, and what it measures it against."""
