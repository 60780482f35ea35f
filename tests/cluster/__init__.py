"""Runs on servers in processes of their own, all of them on loopback: Prism, Flink, and Beam's worker pools."""
