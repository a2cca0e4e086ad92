"""Grafana's dashboards, made from the same catalogue that the metrics are declared in."""
