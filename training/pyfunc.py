"""Published models as MLflow models: the ``MLmodel`` file and the loader that it names.

``mlflow.pyfunc.load_model("models:/<lineage>@champion")`` imports this module by name and calls
``_load_pyfunc``. MLflow itself is not imported here. Weights come from safetensors, nothing is
unpickled, and no file says where the directory lies.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from storage.models import verify_directory
from training.foreign.config import longest_sequence, needs_eager_attention
from training.tokenizer import load_tokenizer

MAX_NEW_TOKENS = 64
TEMPERATURE = 0.0

# The oldest MLflow that reads what is written here (the floor in pyproject.toml), not the one
# installed: files must not depend on the environment.
_MLFLOW_VERSION = "3.11.0"
_PYTHON_VERSION = "3.11"
# What the loader imports. Ranges, for the same reason.
_REQUIREMENTS = (
    "mlflow>=3.11,<4",
    "perennial",
    "safetensors>=0.5",
    "torch>=2.11",
    "transformers>=4.55,<5",
)


class TextGenerator:
    """A causal language model behind MLflow's ``predict``."""

    def __init__(self, directory: Path) -> None:
        """Load model and tokenizer from a published directory, every byte of it checked first.

        Raises:
            CorruptError: A file is missing, short or altered, or there is no manifest.
        """
        verify_directory(directory)
        from training.foreign.torchvision_operators import declare_missing_operators  # noqa: PLC0415  torch

        declare_missing_operators()
        from transformers import AutoModelForCausalLM  # noqa: PLC0415  heavy, and after the above

        self._tokenizer = load_tokenizer(directory)
        fields = json.loads((directory / "config.json").read_bytes())
        # As in training: the fused attention of transformers ignores some fields.
        attention = {"attn_implementation": "eager"} if needs_eager_attention(fields) else {}
        self._model = AutoModelForCausalLM.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, **attention
        )
        self._model.eval()
        self._context = longest_sequence(fields)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Continue every prompt; returns the new text only, in the order of the prompts.

        Args:
            model_input: A list or numpy array of prompts, or a pandas DataFrame whose first column
                holds them.
            params: ``max_new_tokens`` (int) and ``temperature`` (0 is greedy).

        Raises:
            ValueError: A prompt is no string, or leaves no room in the model's context, or a
                parameter is unknown or out of bounds.
        """
        settings = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": TEMPERATURE, **(params or {})}
        max_new_tokens, temperature = _check_settings(settings)
        return [
            self._continue(prompt, max_new_tokens, temperature)
            for prompt in _prompts_of(model_input)
        ]

    def _continue(self, prompt: str, max_new_tokens: int, temperature: float) -> str:
        import torch  # noqa: PLC0415  heavy
        from transformers import GenerationConfig  # noqa: PLC0415  heavy

        # Framed as in training: the start token opens the document.
        tokens = [self._tokenizer.start_id, *self._tokenizer.encode_batch([prompt])[0].tolist()]
        room = self._context - len(tokens)
        if room < 1:
            raise ValueError(
                f"a prompt of {len(tokens)} tokens leaves no room in a context of {self._context} "
                "tokens: shorten it"
            )
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {}
        # One prompt at a time: padding would change the arithmetic, and so greedy results.
        input_ids = torch.tensor([tokens])
        output = self._model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=GenerationConfig(
                max_new_tokens=min(max_new_tokens, room),
                bos_token_id=self._tokenizer.start_id,
                eos_token_id=self._tokenizer.end_id,
                pad_token_id=self._tokenizer.end_id,
                **sampling,
            ),
        )
        return self._tokenizer.decode(output[0, len(tokens) :].tolist())


def _load_pyfunc(path: str) -> TextGenerator:  # pyright: ignore[reportUnusedFunction]  MLflow calls it by this name
    return TextGenerator(Path(path))


def _check_settings(settings: Mapping[str, Any]) -> tuple[int, float]:
    unknown = sorted(settings.keys() - {"max_new_tokens", "temperature"})
    if unknown:
        raise ValueError(f"unknown params {unknown}: expected max_new_tokens or temperature")
    max_new_tokens, temperature = int(settings["max_new_tokens"]), float(settings["temperature"])
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0 (0 is greedy), got {temperature}")
    return max_new_tokens, temperature


def _prompts_of(model_input: Any) -> list[str]:
    if hasattr(model_input, "iloc"):
        model_input = model_input.iloc[:, 0]
    if hasattr(model_input, "tolist"):
        model_input = model_input.tolist()
    prompts: Sequence[Any] = [model_input] if isinstance(model_input, str) else list(model_input)
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(  # noqa: TRY004  what arrives here is data, and MLflow reports it as such
                f"prompt {index} is a {type(prompt).__name__}, expected a string"
            )
    return list(prompts)


def write_mlmodel(directory: Path, *, identity: str) -> None:
    """Add MLmodel, requirements.txt, python_env.yaml and conda.yaml to a Hugging Face directory.

    The same arguments and model files give the same bytes; so no time of creation is written.

    Args:
        directory: With config, weights and tokenizer already in it.
        identity: What the model's UUID is derived from, e.g. lineage and version.
    """
    requirements = list(_REQUIREMENTS)
    _write(directory / "requirements.txt", "".join(f"{line}\n" for line in requirements))
    _write_yaml(
        directory / "python_env.yaml",
        {
            "python": _PYTHON_VERSION,
            "build_dependencies": ["pip"],
            "dependencies": ["-r requirements.txt"],
        },
    )
    _write_yaml(
        directory / "conda.yaml",
        {
            "name": "mlflow-env",
            "channels": ["conda-forge"],
            "dependencies": [f"python={_PYTHON_VERSION}", "pip", {"pip": requirements}],
        },
    )
    size = sum(path.stat().st_size for path in directory.iterdir() if path.name != "MLmodel")
    _write_yaml(directory / "MLmodel", _mlmodel(identity, size))


def _mlmodel(identity: str, size_bytes: int) -> dict[str, Any]:
    params = [
        {"name": "max_new_tokens", "type": "long", "default": MAX_NEW_TOKENS, "shape": None},
        {"name": "temperature", "type": "double", "default": TEMPERATURE, "shape": None},
    ]
    text = json.dumps([{"type": "string", "required": True}])
    return {
        "flavors": {
            "python_function": {
                "loader_module": "training.pyfunc",
                "data": ".",
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "python_version": _PYTHON_VERSION,
            }
        },
        "mlflow_version": _MLFLOW_VERSION,
        "model_size_bytes": size_bytes,
        "model_uuid": hashlib.sha256(identity.encode()).hexdigest()[:32],
        "signature": {"inputs": text, "outputs": text, "params": json.dumps(params)},
    }


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    _write(path, yaml.safe_dump(value, sort_keys=True))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
