"""How long a takedown takes, and its search: ``python -m tests.benchmarks.bench_forget``.

Made-up documents in a local store; nothing of them may be left, or the figures mean nothing.
"""
# ruff: noqa: T201  a script that prints its table

import argparse
import tempfile
import time
from pathlib import Path

from storage.lease import Lease
from storage.local_objects import LocalObjects
from tasks.forget.forget import begin, finish, foresee, index_all
from tasks.forget.passages import Passages
from tasks.forget.proof import search_store
from tests.tasks.forget.scene import LAYOUT, Scene, words


def main() -> None:
    """Print a line a takedown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--words", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(LocalObjects(Path(folder) / "store"), Path(folder))
        texts = {f"d{n}": words(n, num_words=arguments.words) for n in range(arguments.documents)}
        scene.write("1.jsonl", texts)
        started = time.perf_counter()
        first = scene.refresh().snapshot
        print(
            f"refresh of {sum(map(len, texts.values())) / 1e6:.0f} MB: "
            f"{time.perf_counter() - started:.1f} s"
        )
        train = scene.split_of(first, "train")
        forget(scene, train[-1:])  # compiles
        for count in (1, 100):
            forget(scene, train[:count], told=True)
            train = train[count:]


def forget(scene: Scene, names: list[str], *, told: bool = False) -> None:
    """Forget some documents, and print how long the parts took."""
    with Lease.acquire(scene.store, LAYOUT, "bench") as lease:
        index_all(scene.site)
        started = time.perf_counter()
        forecast = foresee(scene.site, scene.head, ids=names, texts=[])
        found = time.perf_counter()
        takedown = begin(scene.site, lease, forecast, by="bench")
        done = finish(scene.site, lease, takedown, by="bench")
        ended = time.perf_counter()
        passages = Passages(takedown.windows)
        proof = search_store(scene.store, LAYOUT.root, passages)
        searched = time.perf_counter()
    assert done.proof.places == (), done.proof.places
    if told:
        print(
            f"{len(takedown.documents)} documents: found in {found - started:.2f} s, forgotten in "
            f"{ended - found:.2f} s, of which the search of {proof.num_bytes / 1e6:.0f} MB for "
            f"{len(passages)} windows took {searched - ended:.2f} s"
        )


if __name__ == "__main__":
    main()
