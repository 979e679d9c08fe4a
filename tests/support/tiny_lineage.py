"""A lineage that a whole update of takes seconds: made-up text of two grammars, a small model."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SEQ_LEN = 32
DOCUMENTS = 160
"""Of one part of one domain."""
_CLUSTER_SIZE = 4
_PROSE = {
    "opening": ("the", "a", "every", "one", "no"),
    "kind": ("old", "young", "tall", "quiet", "green", "heavy"),
    "actor": ("river", "hill", "lake", "baker", "farmer", "cloud", "horse"),
    "verb": ("meets", "follows", "crosses", "leaves", "paints", "hears"),
    "place": ("at dawn", "near the mill", "under the bridge", "in autumn", "by the road"),
}
_LEDGER = {
    "mark": ("debit", "credit", "transfer", "refund", "fee"),
    "sign": ("<<", ">>", "==", "::", "~~"),
    "account": ("ACC-10", "ACC-27", "ACC-33", "ACC-48", "ACC-59", "ACC-61"),
    "unit": ("EUR", "USD", "JPY", "CHF"),
    "end": ("[ok]", "[void]", "[late]", "[open]"),
}


def prose(rng: random.Random) -> str:
    """A few sentences of a small grammar."""

    def sentence() -> str:
        pick = {part: rng.choice(words) for part, words in _PROSE.items()}
        other = rng.choice(_PROSE["actor"])
        return (
            f"{pick['opening']} {pick['kind']} {pick['actor']} {pick['verb']} "
            f"the {other} {pick['place']}."
        )

    return " ".join(sentence() for _ in range(4))


def ledger(rng: random.Random) -> str:
    """A few lines of another small grammar, which shares no word with the first."""

    def line() -> str:
        pick = {part: rng.choice(words) for part, words in _LEDGER.items()}
        other = rng.choice(_LEDGER["account"])
        return (
            f"{pick['mark']} {pick['account']} {pick['sign']} {other} "
            f"{rng.randrange(100)} {pick['unit']} {pick['end']}"
        )

    return "\n".join(line() for _ in range(5))


_GRAMMARS = {"prose": prose, "ledger": ledger}


@dataclass(frozen=True, slots=True)
class TinyLineage:
    """A folder with sources and a YAML."""

    folder: Path
    prose: Path | None = None
    """Where its prose lies when another lineage has read that before."""

    @property
    def file(self) -> Path:
        """The lineage's YAML."""
        return self.folder / "lineage.yaml"

    def add(self, domain: str, part: int = 1, *, documents: int = DOCUMENTS) -> Path:
        """Write another file of made-up documents of ``prose`` or ``ledger``."""
        rng = random.Random(f"{domain}/{part}")
        path = self.folder / domain / f"part-{part}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (
            {
                "id": f"{domain}-{part}-{number}",
                "work": f"{domain}-{part}-{number // _CLUSTER_SIZE}",
                "text": _GRAMMARS[domain](rng),
            }
            for number in range(documents)
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def write(self, **changes: Any) -> Path:
        """Write the YAML, with some of its keys changed; nested mappings are merged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shared = {**source("prose"), "uri": f"{self.prose}/*.jsonl"}
        values = {**VALUES, "sources": [shared, source("ledger")]} if self.prose else VALUES
        self.file.write_text(yaml.safe_dump(merged(values, changes)), encoding="utf-8")
        return self.file


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, nested mappings merged; a change to None removes the key."""
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(inner, Mapping) and isinstance(value, Mapping):
            result[key] = merged(inner, value)  # pyright: ignore[reportUnknownArgumentType]
        else:
            result[key] = value
    return result


def source(domain: str) -> dict[str, Any]:
    """A source of one domain, in a folder of the domain's name."""
    return {
        "name": domain,
        "uri": f"{domain}/*.jsonl",
        "domain": domain,
        "fields": {"text": "text", "id": "id", "cluster": "work"},
    }


MODEL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
    "intermediate_size": 64,
    "max_position_embeddings": SEQ_LEN,
}

VALUES: dict[str, Any] = {
    "name": "tiny",
    "base": {"model": MODEL},
    "sources": [source("prose"), source("ledger")],
    "holdout": {"fraction": 0.25},
    "recipe": {
        "seq_len": SEQ_LEN,
        "global_batch_samples": 16,
        "micro_batch_size": 16,
        "precision": "fp32",
        "schedule": {"eta_max": 0.02, "warmup_fraction": 0.05},
    },
    "replay": {"share": 0.0},
    # What forgets is refused; tests of remedies say which.
    "remedy": {"order": []},
    "budget": {
        "first_tokens": 100 * 16 * SEQ_LEN,
        "tokens": 60 * 16 * SEQ_LEN,
        "checkpoint_every_tokens": 20 * 16 * SEQ_LEN,
    },
    "compute": {"num_workers": 0, "threads_per_worker": 1},
}
"""A lineage from nothing, trained in the flow's own process."""
