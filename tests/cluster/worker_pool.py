"""Beam's worker pool on one loopback address: `python -m tests.cluster.worker_pool HOST:PORT`.

It differs from `python -m apache_beam.runners.worker.worker_pool_main` in two ways. Beam's pool listens on every
address of the machine, and its worker processes remain when it is terminated. This one listens on one address and ends
its workers.
"""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer, kill_process_gracefully


def main(address: str) -> None:
    """Serves until it is terminated, and takes its worker processes with it."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    pool = BeamFnExternalWorkerPoolServicer(use_process=True, data_buffer_time_limit_ms=-1)
    server = grpc.server(ThreadPoolExecutor(8))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(address)
    server.start()
    stopped.wait()
    server.stop(0)
    for worker in pool._worker_processes.values():
        kill_process_gracefully(worker)


if __name__ == "__main__":
    main(*sys.argv[1:])
