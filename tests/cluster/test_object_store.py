"""Shards, model and output on a real S3 server: every command, and workers without a common folder."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks import kills
from tests.cluster import artifacts
from tests.cluster.engines import Engine
from tests.cluster.missing import skip_or_fail
from tests.cluster.runs import LONG, Run
from tests.cluster.s3 import BUCKET, Store, s3
from tests.cluster.servers import ROOT, S3_CREDENTIALS, environment, free_port
from tests.outputs import assert_same_output
from transforms.output import read_maps

# A busy machine takes minutes, and so does a first run that fetches its servers.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A bucket that this process can reach too; skipped if there is no server."""
    before = {name: os.environ.get(name) for name in (*S3_CREDENTIALS, "AWS_ENDPOINT_URL")}
    try:
        with s3(tmp_path_factory.mktemp("s3")) as store:
            os.environ.update(S3_CREDENTIALS, AWS_ENDPOINT_URL=store.endpoint)
            yield store
    except artifacts.Unavailable as reason:
        skip_or_fail(reason)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@pytest.fixture(scope="module")
def stored(store: Store, dataset: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the dataset, with all files in the bucket."""
    shards = pathlib.Path(dataset["input"]["shards"]).parent
    for shard in shards.glob("*.tfrecord"):
        store.put(shard, f"shards/{shard.name}")
    model = {**dataset["model"]}
    for key in ("path", "class_names"):
        file = pathlib.Path(model[key])
        model[key] = store.put(file, file.name)
    output = {**dataset["output"], "path": store.url("direct")}
    return {**dataset, "input": {"shards": store.url("shards/*.tfrecord")}, "model": model, "output": output}


@pytest.fixture(scope="module")
def direct_stored(store: Store, stored: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of a direct run, in the bucket."""
    run = Run.to(stored["output"]["path"], {"name": "direct"}, stored, tmp_path_factory.mktemp("direct"))
    run.finish("--", f"--s3_endpoint_url={store.endpoint}")
    return run.path


def test_a_bucket_gets_what_a_folder_gets(direct_stored: str, expected: str, store: Store) -> None:
    there, here = _by_image(direct_stored), _by_image(expected)
    assert there.keys() == here.keys()
    for image, row in there.items():
        assert row["shard"].startswith(f"s3://{BUCKET}/shards/")
        assert row["logit"] == pytest.approx(here[image]["logit"], abs=1e-6)
        np.testing.assert_allclose(row["map"], here[image]["map"], rtol=0, atol=1e-6 * np.abs(row["map"]).max())
    assert not store.keys("direct/tmp/")


def test_workers_with_no_folder_in_common_write_to_a_bucket(
    flink: Engine, store: Store, stored: dict[str, Any], direct_stored: str, tmp_path: pathlib.Path
) -> None:
    """Only the job tells them the endpoint, and each works in a folder of its own."""
    options = {**flink.runner.get("options", {}), "s3_endpoint_url": store.endpoint}
    run = Run.to(store.url(f"out-{flink.name}"), {**flink.runner, "options": options}, stored, tmp_path)
    run.finish()
    assert_same_output(run.path, direct_stored)
    assert len({receipt.worker for receipt in run.receipts()}) == flink.processes
    assert not store.keys(f"out-{flink.name}/tmp/")
    # The same command resumes it.
    lost = next(key for key in store.keys(f"out-{flink.name}/receipts/") if "large" not in key)
    store.client.delete_object(Bucket=BUCKET, Key=lost)
    said = run.finish("--set", "runner={name: direct}", "--", f"--s3_endpoint_url={store.endpoint}")
    assert "1 unit to explain, 6 done before" in said
    assert_same_output(run.path, direct_stored)


@pytest.fixture(scope="module")
def undisturbed(
    store: Store, tmp_path_factory: pytest.TempPathFactory
) -> tuple[kills.Bench, list[kills.Moment], set[str]]:
    """Runs of small units into the bucket, one of which has come to its end."""
    folder = tmp_path_factory.mktemp("kills")
    bench = kills.Bench(folder, kills.dataset(folder), store.url("kills"))
    return bench, *kills.undisturbed(bench)


def test_a_killed_run_leaves_no_upload_that_the_next_one_does_not_end(
    undisturbed: tuple[kills.Bench, list[kills.Moment], set[str]], store: Store
) -> None:
    """The moment is that of the first part of a file in `tmp`: its upload has begun."""
    bench, moments, units = undisturbed
    moment = next(each for each in moments if each.operation.startswith("PUT") and "uploadId" in each.operation)
    uploads: list[int] = []

    def look() -> None:
        found = store.client.list_multipart_uploads(Bucket=BUCKET, Prefix="kills/")
        uploads.append(len(found.get("Uploads", [])))

    outcome = kills.kill_once(bench, moment, units, bench.output("undisturbed"), after_kill=look)
    look()
    assert outcome.problem is None
    assert uploads == [1, 0]


def test_a_run_waits_for_a_server_that_is_gone_for_ten_seconds(
    undisturbed: tuple[kills.Bench, list[kills.Moment], set[str]], store: Store
) -> None:
    bench, _, _ = undisturbed
    assert kills.without_server(bench, store, 10) is None


def test_every_command_finds_the_bucket(store: Store, stored: dict[str, Any], direct_stored: str) -> None:
    endpoint = f"--s3_endpoint_url={store.endpoint}"
    done = fullgrad("status", direct_stored, "--", endpoint)
    assert done.returncode == 0, done.stderr
    assert "7 of 7 done" in done.stdout
    done = fullgrad("inspect", stored["model"]["path"], "--", endpoint)
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout


def test_a_bucket_that_cannot_be_reached_is_said_in_one_sentence(store: Store) -> None:
    nobody = f"--s3_endpoint_url=http://127.0.0.1:{free_port('127.0.0.1')}"
    somebody = f"--s3_endpoint_url={store.endpoint}"
    status, inspect = ["status", store.url("direct")], ["inspect", store.url("model.keras")]
    for command, endpoint, env, says in (
        (status, nobody, {}, "Could not connect to the endpoint URL"),
        (status, somebody, {"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        (status, somebody, {"AWS_ACCESS_KEY_ID": "nobody"}, "access key"),
        (inspect, nobody, {}, "Could not connect to the endpoint URL"),
    ):
        done = fullgrad(*command, "--", endpoint, **env)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert f"{command[1]} cannot be reached" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_what_is_not_in_the_bucket_is_said_in_one_sentence(
    store: Store, stored: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    endpoint = f"--s3_endpoint_url={store.endpoint}"
    no_bucket = "s3://no-such-bucket/out"
    for arguments, says in (
        (["status", store.url("nothing")], "is no output of a run"),
        (["status", no_bucket], "NoSuchBucket"),
        (["inspect", store.url("nothing.keras")], "there is no such file"),
    ):
        done = fullgrad(*arguments, "--", endpoint)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    run = Run.to(store.url("none"), {"name": "direct"}, stored, tmp_path)
    for override, says in (
        (f"output.path={no_bucket}", f"output.path: {no_bucket} cannot be reached, as S3 answers NoSuchBucket"),
        (f"input.shards={store.url('nothing/*')}", "no file or folder matches"),
        (f"model.path={store.url('nothing.keras')}", "model.path: s3://fullgrad/nothing.keras cannot be read"),
    ):
        done = fullgrad("run", str(run.config), "--set", override, "--", endpoint)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
    assert not store.keys("none")


def test_keys_to_a_store_are_not_written_beside_the_output(
    store: Store, stored: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    options = {"s3_endpoint_url": store.endpoint, "s3_secret_access_key": S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
    options["s3_access_key_id"] = S3_CREDENTIALS["AWS_ACCESS_KEY_ID"]
    few = {**stored, "input": {**stored["input"], "limit": 2}}
    run = Run.to(store.url("keys"), {"name": "direct", "options": options}, few, tmp_path)
    run.finish()
    written = b"".join(
        store.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        for key in store.keys("keys/")
        if key.endswith("json")
    )
    assert store.endpoint.encode() in written
    assert options["s3_secret_access_key"].encode() not in written


def fullgrad(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process that knows the keys but not the server."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env=environment(**{**S3_CREDENTIALS, **env}),
        capture_output=True,
        text=True,
        timeout=LONG,
    )


def _by_image(path: str) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in read_maps(path)}
