"""Everything heavy that a command may import, loaded once by the server that commands fork from."""

from importlib import import_module

from training.foreign.torchvision_operators import declare_missing_operators

# Before streaming, which imports torchvision, which may lack its compiled operators.
declare_missing_operators()

for _name in (
    "flows.cli",
    "flows.demo",
    "flows.errors",
    "flows.refresh",
    "flows.review",
    "flows.show",
    "flows.update",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "prefect.flow_engine",
    "prefect.task_engine",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "streaming",
    "tasks.scoring.measure",
    "tasks.reporting.report",
    "torch._dynamo",
    "transformers.models.auto.modeling_auto",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "training.evaluate",
    "training.foreign.files",
    "training.generate",
    "training.hub.directory",
    "training.launch",
    "training.pyfunc",
    "training.shard_writer",
    "training.tokenizer",
    "training.tokenizer_training",
    "training.worker",
):
    import_module(_name)
