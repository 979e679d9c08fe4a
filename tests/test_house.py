"""What must hold of the project as a whole."""

import subprocess
import sys
from importlib.metadata import packages_distributions

PACKAGES = ("flows", "tasks", "training", "storage", "infra")


def modules_after(statement: str) -> set[str]:
    names = "{name.split('.')[0] for name in sys.modules}"
    code = f"import sys; {statement}; print(' '.join({names}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_the_five_packages_are_ours_alone() -> None:
    owners = packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, ["perennial"])) == {"perennial"}


def test_a_scheduler_that_imports_the_flows_does_not_pay_for_torch() -> None:
    heavy = {"torch", "streaming", "ray", "mlflow", "transformers", "tokenizers", "pyarrow"}
    statement = (
        "import flows.update, flows.refresh, flows.review, flows.show, flows.demo, flows.forget"
    )
    assert modules_after(statement) & heavy == set()


def test_help_answers_without_prefect_and_pydantic() -> None:
    assert modules_after("import flows.cli") & {"prefect", "pydantic", "torch", "mlflow"} == set()


def test_the_core_of_training_needs_torch_numpy_and_safetensors_only() -> None:
    statement = (
        "import training.loop, training.hub.directory, training.evaluate, training.recipes,"
        "training.checkpoint.state, training.data.order, training.data.shards,"
        "training.data.batches, training.schedule"
    )
    ours_or_allowed = modules_after(statement)
    banned = {"pydantic", "ray", "streaming", "transformers", "tokenizers", "pyarrow", "prefect"}
    assert ours_or_allowed & banned == set()
