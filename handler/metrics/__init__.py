"""What happens to requests and in the engine, in figures: gauges, a log line, the bottleneck."""
