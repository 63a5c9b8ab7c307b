"""What ts-otel-logging costs, beside what people use today: ``make bench``, ``python -m benchmarks --help``."""
