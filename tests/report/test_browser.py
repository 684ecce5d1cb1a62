"""Pages in a real browser, headless Chromium: the slider moves, what depends on it follows, nothing is too wide.

Needs Chromium and its driver (Debian: `chromium-driver`) and selenium (`pip install --group browser`); skipped without.
"""

import csv
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from negprompt_cli.config import Config, PixelsConfig
from negprompt_cli.data.results.rowfile import COLUMNS, Row
from negprompt_cli.progress import Silent
from negprompt_cli.steps.report import ReportOptions, run_report
from negprompt_cli.steps.shared import score_page
from negprompt_cli.steps.shared.score_page import Judged, PageRows, write_score_page
from negprompt_cli.steps.shared.workbench import Workbench

IMAGES, THRESHOLD = 90, 0.4
NAMES = ("cat", 'red "fox", <b>', "a class with a rather long name of several words")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("Chromium and chromedriver are not installed")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    scores = np.random.default_rng(0).uniform(size=IMAGES).round(3).tolist()
    return [
        Row(f'new/{i}, "x".png', f"c{i % 3}", NAMES[i % 3], 0.5, score, score / 2, score < THRESHOLD, "cat #1", 0.25)
        for i, score in enumerate(scores)
    ]


@pytest.fixture(scope="module")
def page(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    collected = PageRows()
    collected.write(rows)
    collected.write([Row("broken.png", error="it is empty")])
    held_out = np.random.default_rng(1).uniform(0.3, 1, size=200)
    judged = Judged("negprompt", THRESHOLD, held_out, facts=[("model", "sha256 " + "0" * 64)])
    path = folder / "page.html"
    write_score_page(path, collected, judged, title="Scored images: new", rules=PixelsConfig())
    return path


def show(browser: Any, page: Path, *, width: int = 1280, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(page.as_uri())


def text(browser: Any, key: str) -> str:
    return browser.find_element("id", key).text


def press(browser: Any, times: int) -> float:
    """Move the slider by arrow keys; the threshold it is at then."""
    slider = browser.find_element("id", "slider")
    slider.send_keys(("\ue014" if times > 0 else "\ue012") * abs(times))
    edges = "JSON.parse(document.getElementById('data').textContent).edges"
    return float(browser.execute_script(f"return {edges}[document.getElementById('slider').value]"))


def badges(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('.thumbs li:not([hidden]) .badge')].map(b => b.textContent)"
    return list(browser.execute_script(script))


def saved_csv(browser: Any) -> list[dict[str, str]]:
    """What the button gives to the browser to save."""
    script = """const done = arguments[0], make = URL.createObjectURL;
        URL.createObjectURL = (blob) => { blob.text().then(done); return make(blob); };
        document.getElementById("csv").click(); URL.createObjectURL = make;"""
    return list(csv.DictReader(io.StringIO(browser.execute_async_script(script))))


def test_the_slider_moves_and_counts_badges_and_file_follow(browser: Any, page: Path, rows: list[Row]):
    show(browser, page)
    assert text(browser, "n-ood") == str(sum(row.score < THRESHOLD for row in rows))
    assert badges(browser) == ["OOD" if s < THRESHOLD else "ID" for s in sorted(row.score for row in rows)]
    for times in (30, -70):
        moved = press(browser, times)
        below = sum(row.score < moved for row in rows)
        assert 0 < below < IMAGES
        assert text(browser, "n-ood") == str(below)
        assert text(browser, "n-share") == f"{100 * (IMAGES - below) / IMAGES:.1f} %"
        assert badges(browser).count("OOD") == below
        assert float(text(browser, "n-threshold")) == pytest.approx(moved, rel=1e-3)
    choice = browser.find_element("css selector", "#class option[value='1']")
    choice.click()
    own = [row for row in rows if row.prediction == "c1"]
    assert text(browser, "n-images") == str(len(own))
    assert text(browser, "n-ood") == str(sum(row.score < moved for row in own))
    assert len(badges(browser)) == len(own)
    saved = saved_csv(browser)
    assert tuple(saved[0]) == COLUMNS[:-1]
    expected = {row.path: (row.prediction_name, str(row.score), str(row.score < moved).lower()) for row in own}
    assert {row["path"]: (row["prediction_name"], row["score"], row["is_ood"]) for row in saved} == expected
    browser.find_element("id", "reset").click()
    assert text(browser, "n-ood") == str(sum(bool(row.is_ood) for row in rows))
    assert len(saved_csv(browser)) == IMAGES
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_narrow_and_wide(browser: Any, page: Path, width: int, dark: bool):
    show(browser, page, width=width, dark=dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    style = "getComputedStyle(document.body)"
    paper, ink = (browser.execute_script(f"return {style}.{name}") for name in ("backgroundColor", "color"))
    brightness = [sum(int(n) for n in colour[4:-1].split(",")) for colour in (paper, ink)]
    assert (brightness[0] < brightness[1]) == dark
    # The bars are painted in two colours, left and right of the threshold.
    shot = Image.open(io.BytesIO(browser.find_element("css selector", ".histogram svg").screenshot_as_png)).convert(
        "RGB"
    )
    colours = {colour for _, colour in shot.getcolors(1 << 20)}
    assert colours >= ({(230, 159, 0), (86, 180, 233)} if dark else {(192, 79, 0), (0, 114, 178)})


def test_a_link_unfolds_what_it_leads_to(browser: Any, page: Path):
    show(browser, page)
    browser.find_element("link text", "Details").click()
    assert browser.find_element("id", "how").is_displayed()


def test_a_page_of_more_images_than_it_shows(
    browser: Any, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in (("MOST_SUSPICIOUS", 10), ("SHOWN", 10), ("SAMPLE", 5)):
        monkeypatch.setattr(score_page, name, value)
    collected = PageRows()
    collected.write(rows)
    write_score_page(tmp_path / "page.html", collected, Judged(threshold=THRESHOLD), title="x", rules=PixelsConfig())
    show(browser, tmp_path / "page.html")
    moved = press(browser, 40)
    assert text(browser, "n-ood") == str(sum(row.score < moved for row in rows))
    assert f"of {IMAGES} images" in text(browser, "csv")
    assert len(saved_csv(browser)) == len(collected.suspicious | collected.sample)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a file of scores: thirty classes, two OOD sets."""
    folder, generator = tmp_path_factory.mktemp("report"), np.random.default_rng(0)
    lines = ["set,role,path,label,label_name,prediction,prediction_name,seed,negprompt,mcm"]
    for i in range(300):
        kind, other = ("photos,id", i % 30) if i < 200 else (f"ood{i % 2},ood", None)
        own = "," if other is None else f"c{other},class number {other}"
        found = generator.integers(30) if generator.random() < 0.3 or other is None else other
        one, two = generator.normal(2.0 * (i < 200), 1, 2).tolist()
        lines.append(f"{kind},{i}.png,{own},c{found},class number {found},0,{one},{two}")
    (folder / "scores.csv").write_text("\n".join(lines) + "\n")
    options = ReportOptions(formats=())
    return run_report(Workbench(Config(), Silent()), [folder / "scores.csv"], folder / "page", options, overwrite=False)


@pytest.mark.parametrize(("width", "dark"), [(500, True), (1280, False)])
def test_a_report_fits_and_its_pictures_follow_the_page(browser: Any, evaluation: Path, width: int, dark: bool):
    show(browser, evaluation, width=width, dark=dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ink, text_colour, line = browser.execute_script(
        """const style = (q) => getComputedStyle(document.querySelector(q));
        return [style("body").color, style(".pictures text").fill, style(".key line").stroke]"""
    )
    assert text_colour == ink
    assert line == ("rgb(47, 134, 204)" if dark else "rgb(0, 114, 178)")
    # The links stay in sight, and what they lead to is not below them.
    browser.find_element("link text", "ROC curves").click()
    top, bottom, heading = browser.execute_script(
        """const box = (q) => document.querySelector(q).getBoundingClientRect();
        return [box("nav").top, box("nav").bottom, box("#run1-more-1 h3").top]"""
    )
    assert top == 0
    assert bottom <= heading < 900
    browser.find_element("link text", "Details").click()
    assert browser.find_element("id", "run1-how").is_displayed()
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_page_without_a_threshold_gets_one_by_the_slider(browser: Any, rows: list[Row], tmp_path: Path):
    collected = PageRows()
    collected.write(replace(row, is_ood=None) for row in rows)
    write_score_page(tmp_path / "page.html", collected, Judged(), title="x", rules=PixelsConfig())
    show(browser, tmp_path / "page.html")
    assert (text(browser, "n-ood"), text(browser, "n-threshold")) == ("-", "none")
    assert set(badges(browser)) == {""}
    moved = press(browser, 100)
    assert text(browser, "n-ood") == str(sum(row.score < moved for row in rows))
    assert badges(browser).count("OOD") == sum(row.score < moved for row in rows)
    browser.find_element("id", "reset").click()
    assert text(browser, "n-ood") == "-"
