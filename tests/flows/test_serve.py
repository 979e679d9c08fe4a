"""What Prefect's runner does when its server is away, which ``flows.serve`` makes good."""

import asyncio
import logging
from uuid import UUID

import pytest
from prefect._internal.observers import FlowRunCancellingObserver
from prefect.settings import PREFECT_API_URL, temporary_settings


def test_the_runner_still_stops_listening_for_good_when_its_server_is_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def listen() -> None:
        has_stopped = asyncio.Event()

        def cancel(flow_run_id: UUID) -> None:
            raise AssertionError(flow_run_id)

        def stop(flow_run_ids: set[UUID]) -> None:
            has_stopped.set()

        async with FlowRunCancellingObserver(cancel, polling_interval=0.01, on_failure=stop):
            await asyncio.wait_for(has_stopped.wait(), timeout=30)

    caplog.set_level(logging.CRITICAL)
    # Nobody listens on port 1.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        try:
            asyncio.run(listen())
        except TimeoutError:
            pytest.fail(
                "Prefect's runner goes on listening now: _cancel_what_was_missed, and the silence "
                "about its observer, can go from flows/serve.py"
            )
