"""Training logs and measurements as tables and figures."""
