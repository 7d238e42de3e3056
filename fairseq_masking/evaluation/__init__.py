"""Measuring trained models: fairseq's logs, baselines, tables and figures."""
