"""Plans a check: opens the output, chooses images, and says what it costs. Computes nothing."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.checks.choice import FEWEST, Choice, Pool, choose, read_pool
from pipeline.checks.units import CheckUnit, images_of, locating_units, testing_units
from pipeline.checks.work import CheckSettings, forward_once, side_by_side
from pipeline.config import Config, ConfigError
from pipeline.engines.options import UnusableEngine, beam_flags
from pipeline.settings import field_names, model_spec
from transforms.filesystems import SECRETS, STORE_ERRORS, UnusableFileSystem, check_file_system, use_options
from transforms.models import LoadedModel, UnusableModel, load_once
from transforms.output import Output
from transforms.probing import Grid
from transforms.unit import Receipt

DONORS_KEPT = 16  # located images of a class whose pixels are kept; donors are chosen among them
SHOWN = 4  # images of each kind that are shown for a finding

# Forward passes for a tested image, with all its changes, and for an image of another class.
_OWN_PASSES = 20
_OTHER_PASSES = 18


class CannotCheck(ValueError):
    """The check cannot be done; one sentence that names the file, class or option and what would be right."""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckPlan:
    """A check that may start.

    Attributes:
      config: the run's configuration, with the runner of the check.
      settings: what workers are told.
      model: the loaded model.
      choice, pool, receipts: which images are read, and where they are.
      locating, testing: the units of both halves.
      beam_flags: options for Beam.
      too_few: classes that were asked for and have fewer than `FEWEST` images.
    """

    config: Config
    settings: CheckSettings
    model: LoadedModel
    choice: Choice
    pool: Pool
    receipts: list[Receipt]
    locating: list[CheckUnit]
    testing: list[CheckUnit]
    beam_flags: tuple[str, ...]
    too_few: tuple[int, ...]

    @property
    def grid(self) -> Grid:
        return Grid(*self.model.input_size)

    @property
    def passes(self) -> int:
        """The forward passes of the whole check."""
        others = sum(len(rows) for rows in self.choice.others.values())
        tested = sum(len(rows) for rows in self.choice.tested.values())
        return images_of(self.locating) * (1 + len(self.grid)) + tested * _OWN_PASSES + others * _OTHER_PASSES

    def passes_per_second(self) -> float:
        """The speed of this process, measured on images of noise."""
        forward = forward_once(self.settings.model)
        shape = (forward.batch_size * forward.at_once, *self.model.input_size, self.model.channels)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

        def all_cores() -> float:
            started = time.perf_counter()
            groups = (pixels[i : i + forward.batch_size] for i in range(0, len(pixels), forward.batch_size))
            list(side_by_side(forward, groups, forward.at_once))
            return time.perf_counter() - started

        all_cores()  # compiles
        return len(pixels) / min(all_cores() for _ in range(2))


def plan_check(
    path: str,
    classes: Sequence[str],
    images: int,
    tested: int,
    runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> CheckPlan:
    """Checks everything that can be checked before the work, and plans it. Writes nothing.

    Args:
      path: the run's output.
      classes: names or indices of the classes to check, or only `all` or `flagged`.
      images: images of a class on which its evidence is located.
      tested: the most images of a class, and of other classes, on which it is tested.
      runner: Beam's runner; None for the run's own.
      beam_options: options for Beam, as on its command line.

    Raises:
      CannotCheck: output, model, classes or options do not allow it.
    """
    try:
        return _plan(path, classes, images, tested, runner, beam_options)
    except CannotCheck:
        raise
    except (ConfigError, UnusableEngine, UnusableModel, UnusableFileSystem, ValueError) as error:
        raise CannotCheck(str(error)) from error
    except STORE_ERRORS as error:
        raise CannotCheck(f"a file of {path} or of what it names cannot be read: {error}") from error


def _plan(
    path: str,
    classes: Sequence[str],
    images: int,
    tested: int,
    runner: str | None,
    beam_options: Sequence[str],
) -> CheckPlan:
    number = uuid.uuid4().hex[:12]
    use_options(beam_options)
    check_file_system("OUTPUT", path)
    run = Output(path).read_json("run.json")
    if not isinstance(run, dict) or not {"configuration", "identity", "fingerprint"} <= run.keys():
        raise CannotCheck(f"{path} is no output of a run: there is no run.json of one in it")
    config = _configuration(run["configuration"], runner)
    flags = beam_flags(config.runner, beam_options, number)
    use_options(flags)
    spec = model_spec(config)
    if spec.fingerprint != run["identity"].get("model_content"):
        raise CannotCheck(
            f"{config.model.path or config.model.application} is no longer the model that {path} was made with; put "
            "that one back, or run again into another output.path"
        )
    output = Output(path, run["fingerprint"], number, flags)
    receipts = output.read_receipts()
    if not receipts:
        raise CannotCheck(f"{path} has no maps yet: there is no receipt in {output.file('receipts')}")
    model = load_once(spec)
    pool = read_pool(output, receipts)
    wanted = _wanted(classes, output, model)
    choice = choose(pool, wanted, images, tested)
    if not choice.located:
        raise CannotCheck(
            f"no class to check has {FEWEST} images in {path} that are predicted as it; fewer say nothing"
        )
    return CheckPlan(
        config=config,
        settings=CheckSettings(output, spec, field_names(config)),
        model=model,
        choice=choice,
        pool=pool,
        receipts=receipts,
        locating=locating_units(choice, pool, receipts, DONORS_KEPT),
        testing=testing_units(choice, pool, receipts, SHOWN),
        beam_flags=flags,
        too_few=tuple(k for k in wanted or () if k not in choice.located),
    )


def _configuration(value: dict[str, Any], runner: str | None) -> Config:
    """The run's configuration. Another runner takes none of its options."""
    own = value["runner"]
    options = {name: each for name, each in own["options"].items() if name not in SECRETS}
    same = runner is None or runner == own["name"]
    changed = {**own, "options": options} if same else {"name": runner}
    return Config.from_dict({**value, "runner": changed})


def _wanted(classes: Sequence[str], output: Output, model: LoadedModel) -> list[int] | None:
    """The classes to check; None for all."""
    if list(classes) == ["all"]:
        return None
    if list(classes) != ["flagged"]:
        return [class_of(name, model) for name in classes]
    summary = output.read_json("summary.json")
    if summary is None:
        raise CannotCheck(f"{output.path} has no summary.json, so nothing is flagged yet: no run into it has ended")
    flagged = sorted({each["class_index"] for each in summary["notable"]})
    if not flagged:
        raise CannotCheck(f"the run into {output.path} found no class notable; check all with --classes all")
    return flagged


def class_of(name: str, model: LoadedModel) -> int:
    """The class that a name or an index means.

    Raises:
      CannotCheck: there is no such class, or several have this name.
    """
    found = [k for k, own in enumerate(model.class_names or ()) if own == name]
    if not found and name.isdecimal() and int(name) < model.exposed.classes:
        return int(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise CannotCheck(f"--classes: {len(found)} classes have the name {name!r}; give the index, as {found[0]}")
    raise CannotCheck(
        f"--classes: there is no class {name!r}; it must be a class's name or an index from 0 to "
        f"{model.exposed.classes - 1}"
    )
