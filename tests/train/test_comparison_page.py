"""The page of a comparison: whole in one file, and shown by a browser without complaint."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath

from models import CapsuleRouter, GaussianBottleneck, TopographicCapsules
from train import comparison_page
from train.comparison_curves import Curve
from train.comparison_figures import Measured, by_unit, varying
from train.metrics.rate import Rate
from train.svg_charts import Series, line_chart

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
# Written into a copy of the page: how many pictures there are, and how many are missing.
COUNT = """<script>addEventListener("load", () => {
  const all = [...document.images];
  const missing = all.filter(image => !image.complete || !image.naturalWidth);
  document.body.dataset.pictures = `${all.length} of which missing ${missing.length}`;
});</script>"""


def run(system, seed, psnr, **values):
    figures = {"psnr": psnr, "ssim": 0.9, "bits": 90.0, "parameters": 1234.0, **values}
    curve = [Rate(0.5, 40, psnr - 2), Rate(0.1, 90, psnr)] if system == "vae" else []
    return Measured(system, seed, figures, curve or [Rate(0, 80, psnr)])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with every section, of two systems whose names need escaping."""
    images = np.random.default_rng(0).random((4, 8, 8, 1))
    shown = comparison_page.Shown(images, images, {"entry 0, 1": images})
    measured = [
        run("vae", 0, 20.0, active_units=7.0, probe_accuracy=0.9, seconds_per_step=0.012),
        run("vae", 1, 22.0, active_units=9.0, probe_accuracy=0.8),
        run("vq <64>", 0, 21.0, used_codes=60.0, probe_accuracy=0.7, seconds_per_step=0.01),
    ]
    curves = [
        Curve(one.system, one.seed, {step: {"psnr": one.values["psnr"] + step} for step in (1, 2)})
        for one in measured
    ]
    path = epath.Path(tmp_path_factory.mktemp("page") / "comparison.html")
    comparison_page.write(
        path,
        comparison_page.Page(
            "compare_tiny",
            "2 systems.",
            measured,
            curves=[((("PSNR, dB", "psnr", 2),), curves)],
            originals=images,
            shown={"vae": shown, "vq <64>": shown},
            probe={"raw pixels": 0.95, "chance": 0.1, "train": 100.0, "test": 50.0},
            where="one cpu",
        ),
    )
    return path


def test_it_needs_nothing_beside_itself(page):
    text = page.read_text()
    assert not re.findall(r"https?://|<script|<link|url\(|@import", text)
    sources = re.findall(r'src="([^"]{0,30})', text)
    assert len(sources) == 1 + 3 * 2  # originals; each system's reconstructions, way and move
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_it_says_what_was_measured(page):
    text = page.read_text()
    assert "<td>21.00 ± 1.41</td>" in text  # PSNR of two seeds
    assert text.index("<table>") < text.index("<svg")  # a table first
    assert "vq &lt;64&gt;" in text
    assert "vq <64>" not in text
    assert re.findall("<h2>(.*)</h2>", text) == [
        "Results",
        "Over the steps of training",
        "Rate and distortion",
        "The same test images through every bottleneck",
        "From one image to another",
        "One entry of the code at a time",
        "How the latent is used",
        "What a linear probe reads",
        "What training costs",
    ]
    assert "85.0 % ± 7.1" in text
    assert "<td>95.0 %</td>" in text
    assert "<td>12</td><td>1,234</td>" in text


def test_what_is_not_there_has_no_section(tmp_path):
    path = epath.Path(tmp_path / "comparison.html")
    comparison_page.write(
        path, comparison_page.Page("t", "l", [run("a", 0, 20.0)._replace(curve=[])])
    )
    assert re.findall("<h2>(.*)</h2>", path.read_text()) == ["Results"]


def test_charts_are_drawings_of_their_points():
    series = [
        Series("a & b", 0, [1, 2, 4], [10, 20, 15], [9, 18, 15], [11, 21, 15]),
        Series("c", 1, [8], [12]),
    ]
    drawn = ET.fromstring(line_chart(series, x_label="bits", y_label="dB", log_x=True))
    circles = list(drawn.iter("circle"))
    assert len(circles) == 4
    x = [float(circle.get("cx")) for circle in circles]
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.2)  # powers of two, evenly
    y = [float(circle.get("cy")) for circle in circles]
    assert y[1] < y[2] < y[3] < y[0]  # up is more
    assert len(list(drawn.iter("polygon"))) == 1
    assert circles[0].find("title").text == "a & b: 10 at 1"
    with pytest.raises(ValueError, match="has no logarithm"):
        line_chart([Series("a", 0, [0], [1])], x_label="", y_label="", log_x=True)
    with pytest.raises(ValueError, match="expected finite points"):
        line_chart([], x_label="", y_label="")


def test_numbers_of_capsules_are_units_of_their_own():
    def run_of(bottleneck):
        return SimpleNamespace(model=SimpleNamespace(bottleneck=bottleneck))

    code = np.arange(2 * 3 * 3 * 8 * 2).reshape(2, 3, 3, 8, 2)
    assert by_unit(run_of(CapsuleRouter(outputs=8, depth=2)), code).shape == (2, 3, 3, 16)
    torus = TopographicCapsules(8, 2, "torus", width=1)
    assert by_unit(run_of(torus), code).shape == (2, 3, 3, 16)
    assert by_unit(run_of(GaussianBottleneck(2)), code).shape == code.shape


def test_entries_that_vary():
    code = np.random.default_rng(0).normal(size=(100, 2, 3))
    code[:, 0, 1] = 5
    code[:, 1, 2] *= 0.01
    assert varying(code) == 4
    assert varying(np.array([[[0], [1]], [[0], [2]]])) == 1


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome to open the page with")
def test_a_browser_shows_it_without_complaint(page, tmp_path):
    def opened(path):
        done = subprocess.run(
            [
                *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu"),
                *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"),
                *("--virtual-time-budget=2000", "--dump-dom", f"file://{path}"),
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-1000:]
        complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout, complaints

    dom, complaints = opened(page)
    assert complaints == []
    assert "What training costs" in dom
    counting = tmp_path / "counting.html"
    text = re.sub("<meta http-equiv.*?>", "", page.read_text(), flags=re.DOTALL)
    counting.write_text(text.replace("</body>", f"{COUNT}</body>"))
    dom, complaints = opened(counting)
    assert complaints == []
    assert 'data-pictures="7 of which missing 0"' in dom
