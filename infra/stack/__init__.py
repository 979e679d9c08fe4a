"""The servers of one machine: Prefect, MLflow and Ray as supervised processes on loopback."""
