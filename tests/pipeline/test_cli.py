"""The command line: what it prints, what it refuses in one line, and its exit codes."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import keras
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.config import Config, schema_keys
from pipeline.progress import LauncherAtWork, launcher_is_at_work
from pipeline.run import launch, prepare
from tests import shards
from tests.samples import configuration, encoded_images, save_model
from tests.transforms.fullgrad.networks import randomize
from transforms import explain, explainer
from transforms.output import Output

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _interrupts_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(*arguments: object) -> int:
    """The exit code of a command."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:  # how argparse ends
        return int(stop.code or 0)


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> dict[str, Any]:
    """A configuration for two TFRecord shards of 7 and 5 images."""
    samples = encoded_images(12)
    shards.write_tfrecord(tmp_path / "a.tfrecord", samples[:7])
    shards.write_tfrecord(tmp_path / "b.tfrecord", samples[7:])
    return configuration(tmp_path, str(tmp_path / "*.tfrecord"))


@pytest.fixture
def config(dataset: dict[str, Any], tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(dataset))  # JSON is YAML
    return path


# ---- help


def test_help_has_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    captured = capsys.readouterr()
    for command in ("run", "demo", "status", "inspect"):
        assert re.search(rf"^ +{command} ", captured.out, re.MULTILINE)
    assert "Exit codes: 0 done; 1 done, but" in " ".join(captured.out.split())
    assert captured.err == ""


def test_help_of_run_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for key in schema_keys():
        assert any(line == key or line.startswith(f"{key}  (") for line in lines), key


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run", ["CONFIG.yaml", "--set KEY=VALUE", "--dry-run", "What follows --"]),
        ("demo", ["--output DIR", "out/demo"]),
        ("status", ["OUTPUT"]),
        (
            "inspect",
            ["MODEL", "--weights", "--model-output", "--images", "--scale", "--size", "--trust", "--custom-objects"],
        ),
    ],
)
def test_help_of_a_command_has_its_arguments(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert [word for word in words if word not in text] == []


@pytest.mark.slow
def test_python_m_pipeline_is_fullgrad() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    script = "import sys; from pipeline.cli import main; sys.argv[0] = '/bin/fullgrad'; sys.exit(main())"
    for arguments in (["--help"], ["status", "nowhere"]):
        module, entry_point = (
            subprocess.run(
                [sys.executable, *how, *arguments], env=environment, capture_output=True, text=True, check=False
            )
            for how in (["-m", "pipeline"], ["-c", script])
        )
        assert (module.returncode, module.stdout, module.stderr) == (
            entry_point.returncode,
            entry_point.stdout,
            entry_point.stderr,
        )
        assert module.returncode == (0 if arguments == ["--help"] else 2)
        assert "Traceback" not in module.stderr


# ---- refusals


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on standard error with which a command is refused, with exit code 2."""
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("fullgrad")
    return captured.err.strip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["rnu"], "invalid choice: 'rnu'"),
        (["run"], "required: CONFIG.yaml"),
        (["run", "c.yaml", "--sett", "a=b"], "unrecognized arguments: --sett"),
        (["run", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["status"], "required: OUTPUT"),
        (["status", "nowhere"], "nowhere is no output of a run: there is no run.json in it"),
        (["status", "nowhere://bucket/out"], "nowhere://bucket/out"),
        (["demo", "--", "--parallelism=8"], "Beam options after -- belong to `fullgrad run`"),
        (["inspect", "nowhere.keras"], "nowhere.keras cannot be read"),
        (["inspect", "ResNet51"], "did you mean 'resnet50'?"),
        (["inspect", "Xception", "--size", "3"], "--size"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("explain.mpas=signed", "did you mean `explain.maps`?"),
        ("explain.batch_size=0", "`explain.batch_size` must be"),
        ("model.path=nowhere.keras", "model.path: nowhere.keras cannot be read"),
        ("model.preprocess.scale=resnet51", "model.preprocess.scale is 'resnet51'"),
        ("model.preprocess.resize.shape=8", "model.preprocess.resize.shape is [8, 8], but"),
        ("input.shards=nowhere/*", "nowhere/*"),
        ("runner.options.no_such_option=1", "no_such_option"),
    ],
)
def test_a_run_that_cannot_be_is_refused_in_one_line(
    setting: str, words: str, config: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", config, "--set", setting) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("content", ["not JSON", "[]", "{}", '{"run": "x", "plan": 3}'])
def test_the_status_of_a_folder_of_something_else_is_refused(
    content: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text(content)
    assert f"{tmp_path}" in refusal(capsys, "status", tmp_path)


# ---- run


def test_a_run_exits_with_0_and_says_what_it_did(config: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", config) == 0
    captured = capsys.readouterr()
    out = pathlib.Path(json.loads(config.read_text())["output"]["path"])
    assert f"2 units to explain; 12 images in all → {out}" in captured.out
    assert "12 images explained, 12 maps in 2 units" in captured.out
    assert "accuracy" in captured.out
    assert f"written to {out}" in captured.out
    assert captured.out.endswith(f"to see it: fullgrad report {out}\n")
    assert captured.err == ""
    assert run("run", config) == 0
    assert "0 units to explain, 2 done before; 12 images in all" in capsys.readouterr().out


def test_too_many_failures_exit_with_1(
    config: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards.write_tfrecord(tmp_path / "c.tfrecord", [("broken.png", b"no image", 0)])
    assert run("run", config) == 1
    captured = capsys.readouterr()
    assert "12 images explained, 1 failed" in captured.out
    assert captured.err.count("\n") == 1
    assert "7.69% of the images failed (1 UndecodableImage), more than errors.max_fraction = 0.01" in captured.err
    assert run("run", config, "--set", "errors.max_fraction=0.1") == 0


def test_a_dry_run_writes_nothing(
    config: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run("run", config, "--dry-run") == 0
    assert "2 units to explain; 12 images in all" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert run("run", config, "--dry-run", "--set", "explain.targets=top-9") == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_keys_are_set_from_the_command_line(config: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", config, "--set", "explain.targets=top-2", "--set", "input.limit=3", "--dry-run") == 0
    assert "3 images in all" in capsys.readouterr().out


@pytest.mark.slow
def test_options_after_the_dashes_reach_beam(config: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline.engines.jobs as run_module

    seen: list[dict[str, Any]] = []

    class Recording(run_module.FnApiRunner):
        def run_pipeline(self, pipeline: Any, options: Any) -> Any:
            seen.append(options.get_all_options())
            return super().run_pipeline(pipeline, options)

    monkeypatch.setattr(run_module, "FnApiRunner", Recording)
    arguments = ["--set", "runner.options.direct_num_workers=2", "--", "--job_name=mine", "--save_main_session"]
    assert run("run", config, *arguments) == 0
    [options] = seen
    assert options["job_name"] == "mine"
    assert options["save_main_session"] is True
    assert options["direct_num_workers"] == 2


# ---- status


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The table that `status` printed."""
    return dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_the_status_of_a_finished_run(config: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", config) == 0
    capsys.readouterr()
    assert run("status", json.loads(config.read_text())["output"]["path"]) == 0
    status = rows(capsys)
    assert status["units"] == "2 of 2 done, 0 under way"
    assert status["images"] == "12 of 12"
    assert status["failed"] == "0"
    assert re.fullmatch(r"[\d.]+ images/s", status["speed"])
    assert status["state"] == "done"


class _Stopped(Exception):
    pass


def _stop() -> None:
    raise _Stopped


@pytest.mark.slow
def test_the_status_of_a_run_that_was_interrupted(dataset: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    launch(prepare(Config.from_dict({**dataset, "input": {**dataset["input"], "limit": 7}})))
    with pytest.raises(_Stopped):
        launch(prepare(Config.from_dict(dataset)), on_start=_stop)
    output = Output(dataset["output"]["path"])
    assert run("status", output.path) == 0
    status = rows(capsys)
    assert status["units"] == "1 of 2 done, 0 under way"
    assert status["images"] == "7 of 12"
    assert status["state"] == "nobody at work on it"

    unit = prepare(Config.from_dict(dataset)).units[0]
    now = time.time()
    beat = {"images": 2, "failed": 1, "started": now - 4, "time": now}
    output.write_json(output.heartbeat(unit), json.dumps(beat))
    assert run("status", output.path) == 0
    status = rows(capsys)
    assert status["units"] == "1 of 2 done, 1 under way"
    assert status["images"] == "9 of 12"
    assert status["failed"] == "1"
    assert status["speed"] == "0.5 images/s"
    assert status["state"] == "at this speed 4 s to go"

    output.delete(output.heartbeat(unit))
    launch(prepare(Config.from_dict(dataset)))
    output.delete(output.file("summary.json"))
    assert run("status", output.path) == 0
    assert rows(capsys)["state"] == "all units done, their statistics not yet merged"
    launch(prepare(Config.from_dict(dataset)))
    output.delete(output.file("classes.parquet"))
    assert run("status", output.path) == 0
    assert rows(capsys)["state"] == "all units done, their statistics not yet merged"
    with LauncherAtWork(output):
        deadline = time.monotonic() + 60
        while not launcher_is_at_work(output):
            assert time.monotonic() < deadline
        assert run("status", output.path) == 0
    assert rows(capsys)["state"] == "all units done, their statistics being merged"
    assert run("status", output.path) == 0
    assert rows(capsys)["state"] == "all units done, their statistics not yet merged"


def test_a_run_whose_first_unit_has_not_begun_is_no_run_that_nobody_works_on(
    dataset: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(_Stopped):
        launch(prepare(Config.from_dict(dataset)), on_start=_stop)
    output = Output(dataset["output"]["path"])
    output.write_json(output.file("tmp", "x~launcher.alive"), json.dumps({"time": time.time() - 60}))
    assert run("status", output.path) == 0
    assert rows(capsys)["state"] == "begun, no unit under way yet"
    output.write_json(output.file("tmp", "x~launcher.alive"), json.dumps({"time": time.time() - 600}))
    assert run("status", output.path) == 0
    assert rows(capsys)["state"] == "nobody at work on it"


def test_the_status_of_a_run_that_goes_on(
    dataset: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {**dataset, "explain": {**dataset["explain"], "batch_size": 1}}
    third, looked = threading.Event(), threading.Event()
    explain_batch = explainer.explain_batch
    calls = iter(range(1000))

    def slowly(*arguments: Any) -> Any:
        if next(calls) == 3:
            third.set()
            assert looked.wait(60)
        return explain_batch(*arguments)

    monkeypatch.setattr(explainer, "explain_batch", slowly)
    monkeypatch.setattr(explain, "_HEARTBEAT_SECONDS", 0.01)
    plan = prepare(Config.from_dict(value))
    thread = threading.Thread(target=launch, args=(plan,))
    thread.start()
    try:
        assert third.wait(60)
        status: dict[str, str] = {}
        deadline = time.monotonic() + 30
        while status.get("images") != "3 of 12" and time.monotonic() < deadline:  # a thread writes the heartbeat
            assert run("status", value["output"]["path"]) == 0
            status = rows(capsys)
    finally:
        looked.set()
        thread.join()
    assert status["units"] == "0 of 2 done, 1 under way"
    assert status["images"] == "3 of 12"
    assert status["state"].startswith("at this speed ")
    assert run("status", value["output"]["path"]) == 0
    assert rows(capsys)["state"] == "done"


# ---- inspect


def test_inspect_says_of_every_layer_what_it_adds(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_model(tmp_path / "model.keras")
    assert run("inspect", path) == 0
    captured = capsys.readouterr()
    model = keras.models.load_model(path, compile=False)
    for layer in model.layers:
        [line] = [line for line in captured.out.splitlines() if line.split()[:1] == [layer.name]]
        assert type(layer).__name__ in line
        assert ("effective bias β − γ·μ/√(σ² + ε)" in line) == isinstance(layer, keras.layers.BatchNormalization)
        assert re.search(r" bias +\d+\.\d+%$", line.rstrip()) or not getattr(layer, "use_bias", False)
    assert "3 classes; FullGrad explains the logit before the final softmax (" in captured.out
    assert "on 4 images of noise the completeness error is at most" in captured.out
    assert captured.out.rstrip().endswith(": complete")
    assert captured.err == ""


def test_the_layers_shares_are_parts_of_one_whole(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", save_model(tmp_path / "model.keras")) == 0
    shares = [float(share) for share in re.findall(r"([\d.]+)%", capsys.readouterr().out)]
    assert len(shares) == 4
    assert 0 < sum(shares) <= 100


def test_inspect_takes_images(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_model(tmp_path / "model.keras")
    for name, colour in (("red.png", (255, 0, 0)), ("black.png", (0, 0, 0))):
        Image.new("RGB", (20, 30), colour).save(tmp_path / name)
    assert run("inspect", path, "--images", tmp_path / "red.png", "--scale", "tf") == 0
    assert "on 1 image the completeness error" in capsys.readouterr().out
    assert run("inspect", path, "--images", tmp_path / "red.png", tmp_path / "black.png") == 0
    assert "on 2 images the completeness error" in capsys.readouterr().out
    assert "nowhere.png" in refusal(capsys, "inspect", path, "--images", tmp_path / "nowhere.png")
    assert f"--images: {path}: the " in refusal(capsys, "inspect", path, "--images", path)


def test_inspect_exits_with_1_where_the_terms_do_not_add_up(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 3, activation="gelu"),
            layers.Conv2D(8, 3, activation="silu", dtype="float16", name="overflows"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    randomize(model)
    model.layers[1].kernel.assign(1e4 * model.layers[1].kernel)  # times pixels of up to 255
    model.save(tmp_path / "model.keras")
    assert run("inspect", tmp_path / "model.keras") == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert "NOT complete, the limit is 0.005; 1 of its layers compute in float16" in last
    assert "overflows" in last.partition("not accounted for, the worst first: ")[2]


def test_inspect_takes_the_size_that_a_model_leaves_open(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((None, None, 1)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )
    randomize(model).save(tmp_path / "model.keras")
    assert "takes images of any size" in refusal(capsys, "inspect", tmp_path / "model.keras")
    assert run("inspect", tmp_path / "model.keras", "--size", 9, 7) == 0
    assert "2 classes" in capsys.readouterr().out
    scale = refusal(capsys, "inspect", tmp_path / "model.keras", "--size", 9, 7, "--scale", "caffe")
    assert scale == "fullgrad: model.preprocess.scale caffe is for images of 3 channels, but these have 1"


def test_inspect_needs_to_be_told_to_trust_a_file(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Lambda(lambda x: 2 * x), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )
    model.save(tmp_path / "model.keras")
    assert "model.trust: true" in refusal(capsys, "inspect", tmp_path / "model.keras")
    assert run("inspect", tmp_path / "model.keras", "--trust") == 0
