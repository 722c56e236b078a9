"""What is claimed about how cell images are seen: `python -m benchmarks.imaging [PART …]`."""
