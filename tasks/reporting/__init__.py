"""What a reviewer reads of an update: the report, the version's page in MLflow."""
