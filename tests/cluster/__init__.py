"""Runs on real servers, which are processes of their own on loopback: Prism, Flink, Spark and Beam's worker pools."""
