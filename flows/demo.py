"""The demo: a small model kept up to date, on text this installation already has.

The real flow with the real parts. Version 1 learns English prose; update A continues on Python code
without replay; update B takes the same code with replay. What the verdicts are is decided by the
defaults; nothing here knows them beforehand. A second run deals out the next part of the harvest
and updates again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.outcome import Outcome
from flows.output import say
from flows.template import SMALL_MODEL
from infra.settings import Settings, use_home
from storage.head import Head
from tasks.harvest import harvest_part

logger = logging.getLogger(__name__)

NAME = "demo"
REPLAY_SHARE = 0.25
"""The smallest of a sweep whose verdict was PASS (docs/results/demo.md)."""
PROSE_CHARS, CODE_CHARS = 3_600_000, 2_400_000

_YAML = """\
# Written by `perennial demo`. {comment}
name: {name}
base:
{model}\
sources:
  - name: prose
    uri: sources/prose/*.jsonl.gz
    domain: prose-en
    licence: of the installed packages
    fields: {{text: text, id: id, cluster: module, licence: licence}}
  - name: code
    uri: sources/code/*.jsonl.gz
    domain: code-python
    licence: PSF-2.0
    fields: {{text: text, id: id, cluster: module, licence: licence}}
holdout:                  # small data: a larger share, so that small losses can be seen
  fraction: 0.08
  min_clusters: 24
  max_fraction: 0.5
  max_tokens: 100000
recipe:
  name: rewarm-cosine
  seq_len: 256
  global_batch_samples: 32
  micro_batch_size: 32
  schedule: {{eta_max: 2.0e-3, warmup_fraction: 0.05}}
  seed: {seed}
replay:
  share: {share}
remedy:
  order: []               # what forgets is refused, so that it can be seen
budget:
  first_tokens: 983040    # 120 steps
  tokens: 491520          # 60 steps
  checkpoint_every_tokens: 245760
compute:
  num_workers: 1
"""


@dataclass(frozen=True, slots=True)
class _Scene:
    """One act of the demo."""

    title: str
    file: Path
    expected: str
    """What the literature lets one expect; the verdict is not made to match it."""
    prepare: Callable[[], object]


def run_demo(folder: Path | None, *, seed: int) -> Outcome:
    """Run the demo, or go on where an earlier one stopped or ended."""
    if folder is None:
        Settings().make_home()
    home = (folder or Settings().home_path / "demo").resolve()
    settings = use_home(home)
    # Only now: Prefect reads its environment when it is imported.
    from flows.show import current_head, print_demo_summary  # noqa: PLC0415
    from flows.temporary_server import start_temporary_server  # noqa: PLC0415
    from flows.update import update_model  # noqa: PLC0415

    start_temporary_server()
    say(f"everything goes to {home}")
    files = _write_yamls(home, seed)
    outcome: Outcome | None = None
    for scene in _scenes(home, files, current_head(NAME, settings)):
        say(f"\n== {scene.title}")
        scene.prepare()
        outcome = update_model(lineage_file=scene.file)
        say(f"{outcome.kind}: {outcome.text}")
        if outcome.kind != scene.expected:
            say(f"(NOT what one would expect here, which is {scene.expected})")
        if outcome.kind == "nothing to do":
            break
    if outcome is None:
        return Outcome(
            lineage=NAME,
            kind="nothing to do",
            message="no more text to harvest here; remove the folder to start over",
        )
    print_demo_summary(files["with replay"], settings)
    return Outcome(
        lineage=NAME,
        kind="done",
        message="",
        head=outcome.head,
        version=outcome.version,
        report=outcome.report,
    )


def _scenes(home: Path, files: dict[str, Path], head: Head | None) -> list[_Scene]:
    """What is left to do: the three acts the first time, one more update every time after."""
    sources = home / "sources"

    def harvest(domain: str, part: int) -> Path | None:
        chars = PROSE_CHARS if domain == "prose" else CODE_CHARS
        return harvest_part(domain, part, sources / domain, part_chars=chars)

    judged = len(head.versions) if head else 0
    scenes = [
        _Scene(
            "version 1: from nothing, on English prose",
            files["with replay"],
            "PASS",
            lambda: harvest("prose", 1),
        ),
        _Scene(
            "update A: Python code arrives; continue without replay",
            files["without replay"],
            "FAIL",
            lambda: harvest("code", 1),
        ),
        _Scene(
            "update B: the same code, which is still pending, with replay",
            files["with replay"],
            "PASS",
            lambda: harvest("code", 1),
        ),
    ]
    if judged < len(scenes):
        return scenes[judged:]
    parts = {
        domain: len(list((sources / domain).glob("part-*.jsonl.gz"))) + 1
        for domain in ("prose", "code")
    }
    found = [path for domain, part in parts.items() if (path := harvest(domain, part))]
    if not found:
        return []
    title = "the next part: " + ", ".join(f"{path.parent.name} {path.name}" for path in found)
    return [_Scene(title, files["with replay"], "PASS", lambda: found)]


def _write_yamls(home: Path, seed: int) -> dict[str, Path]:
    home.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    for label, name, share, comment in (
        ("with replay", "lineage.yaml", REPLAY_SHARE, "The lineage as one would keep it."),
        ("without replay", "without-replay.yaml", 0.0, "The same, but nothing against forgetting."),
    ):
        text = _YAML.format(name=NAME, model=SMALL_MODEL, seed=seed, share=share, comment=comment)
        files[label] = home / name
        files[label].write_text(text, encoding="utf-8")
    return files
