"""What watches the workers: Prometheus' configuration and rules, a Grafana dashboard, a picture."""
