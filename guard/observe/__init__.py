"""What Guard shows: metrics, logs, health."""
