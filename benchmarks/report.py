"""Measures the report of a large output: how long it takes to build, and how quickly browsers show it.

    python -m benchmarks.report [--classes 1000] [--images 100]

Makes an output of drawn images in a temporary folder, builds its report, and opens it from disk in the browsers that
are installed. A browser starts anew for each first view. `opening a class` is the time from the click until the view is
shown and painted.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time

import numpy as np

from benchmarks.made_output import Made, make_output
from benchmarks.tables import Report, with_range
from pipeline.report import build_report
from tests.browser.bidi import BROWSERS, Browser, Unavailable

FIRST_VIEWS, OPENED = 3, 60

_PAINTED = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=100, help="images of a class (default: 100)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder, "output")
        make_output(output, Made([f"class number {i}" for i in range(args.classes)], images=args.images))
        started, processor = time.perf_counter(), time.process_time()
        built = build_report(str(output))
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        report = output / "report"
        size = sum(path.stat().st_size for path in report.rglob("*") if path.is_file())
        print(
            f"{built.classes:,} classes, {args.classes * args.images:,} images, {built.examples:,} examples: "
            f"built in {seconds:.1f} s ({processor:.1f} s of processors); "
            f"data/index.js {(report / 'data' / 'index.js').stat().st_size / 1e6:.2f} MB, "
            f"report {size / 1e6:.0f} MB"
        )
        rows = []
        for name, start in BROWSERS.items():
            try:
                views = [_first_view(start, report) for _ in range(FIRST_VIEWS)]
                with start() as browser:
                    opened, sorted_in = _openings(browser, report, args.classes)
            except Unavailable as reason:
                print(f"{name}: {reason}")
                continue
            p50, p95 = np.quantile(opened, [0.5, 0.95])
            rows.append([name, with_range(views, ".0f"), f"{p50:.0f}", f"{p95:.0f}", f"{sorted_in:.0f}"])
        columns = ["browser", "first view, ms", "opening a class, p50, ms", "p95, ms", "table of classes, ms"]
        Report().table("the report in browsers, from disk", columns, rows)


def _first_view(start, report: pathlib.Path) -> float:  # type: ignore[no-untyped-def]
    """Milliseconds from the start of the navigation until the overview is painted."""
    with start() as browser:
        browser.open((report / "index.html").as_uri())
        browser.shown("")
        return browser.evaluate(f"{_PAINTED}.then(() => performance.getEntriesByType('paint').at(-1)?.startTime ?? -1)")


def _openings(browser: Browser, report: pathlib.Path, classes: int) -> tuple[list[float], float]:
    """Milliseconds for each of some classes, each opened for the first time, and for the table of all classes."""
    browser.open((report / "index.html").as_uri())
    measure = """
        (async (address) => {
          const started = performance.now();
          location.hash = address;
          const main = document.getElementById("main");
          while (main.dataset.shown !== address) await new Promise((done) => setTimeout(done));
          await PAINTED;
          return performance.now() - started;
        })""".replace("PAINTED", _PAINTED)
    chosen = np.random.default_rng(0).choice(classes, min(OPENED, classes), replace=False)
    opened = [browser.evaluate(f"{measure}('#class/{number}')") for number in chosen]
    return opened, browser.evaluate(f"{measure}('#classes')")


if __name__ == "__main__":
    main()
