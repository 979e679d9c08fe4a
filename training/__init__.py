"""The learning. Has never heard of flows, tasks, Prefect or MLflow."""
