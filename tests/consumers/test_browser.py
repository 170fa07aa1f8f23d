"""The page of `explain --html` in a real browser: its script runs under its own policy, by keys."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from consumers.requirements import require

pytestmark = pytest.mark.consumers

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1000,900",
)  # fmt: skip
NAMES = [
    f"{letter * 32}-{name}" for letter, name in zip("abc", ("app", "lib", "data"), strict=True)
]
SCHEME = "return matchMedia('(prefers-color-scheme: dark)').matches"
COLOURS = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Start a browser with a profile of its own."""
    require(["chromium", "chromedriver"])
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def page(browser: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Chrome:
    """Open the page of an image whose library would stay."""
    here = tmp_path_factory.mktemp("page")
    store = here / "store"
    for number, name in enumerate(NAMES, 1):
        (store / name).mkdir(parents=True)
        (store / name / "f").write_bytes(bytes(number * 50_000))
    layers = [[f"{store}/{NAMES[1]}"], [f"{store}/{NAMES[0]}", f"{store}/{NAMES[2]}"]]
    for name, of in (("conf", layers), ("old", layers[:1])):
        document = {"repo_tag": "app:1", "store_dir": str(store), "store_layers": of}
        (here / f"{name}.json").write_text(json.dumps(document), "utf-8")
    command = [sys.executable, "-m", "stream", "explain", f"{here}/conf.json", "--html"]
    against = ["--against", f"{here}/old.json"]
    subprocess.run([*command, f"{here}/page.html", *against], check=True)
    browser.get(Path(here, "page.html").as_uri())
    return browser


def shown_rows(page: Chrome) -> list[str]:
    """Return the names in the list that is shown."""
    rows = page.find_elements(By.CSS_SELECTOR, "#paths tbody tr")
    return [row.text.rpartition("-")[2] for row in rows if row.is_displayed()]


def test_keys_reach_every_area(page: Chrome) -> None:
    """Who has no mouse could not ask what an area is."""
    page.find_element(By.ID, "search").send_keys(Keys.TAB)
    found = []
    for _ in NAMES:
        found.append(page.find_element(By.ID, "detail").text)
        page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert [text.partition(":")[0].rpartition("-")[2] for text in found] == ["data", "app", "lib"]
    assert found[0].endswith("in layer 2, which moves")
    assert found[2].endswith("in layer 1, which stays")
    page.switch_to.active_element.send_keys(Keys.HOME)
    assert page.find_element(By.ID, "detail").text == found[0]


def test_search(page: Chrome) -> None:
    """What is searched for must be found in the list and among the areas, and be all again after."""
    field = page.find_element(By.ID, "search")
    assert shown_rows(page) == ["data", "lib", "app"]
    field.send_keys("LIB")
    assert shown_rows(page) == ["lib"]
    assert page.find_element(By.ID, "found").text == "1 of 3"
    dimmed = page.find_elements(By.CSS_SELECTOR, ".area.out")
    assert len(dimmed) == len(page.find_elements(By.CSS_SELECTOR, ".area")) - 1
    field.send_keys(Keys.BACKSPACE * 3)
    assert len(shown_rows(page)) == 3


def test_areas_fill_the_map(page: Chrome) -> None:
    """An area without extent, or outside, cannot be seen."""
    whole = page.find_element(By.CSS_SELECTOR, ".map").rect
    for area in page.find_elements(By.CSS_SELECTOR, ".area"):
        rect = area.rect
        assert rect["width"] > 0
        assert rect["height"] > 0
        assert (
            whole["x"] - 1
            <= rect["x"]
            <= rect["x"] + rect["width"]
            <= whole["x"] + whole["width"] + 1
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_schemes(page: Chrome, scheme: str) -> None:
    """Text of one scheme on the ground of the other cannot be read."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    assert page.execute_script(SCHEME) == (scheme == "dark")
    text, ground = page.execute_script(COLOURS)
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (text, ground)]
    assert (brightness[0] > brightness[1]) == (scheme == "dark")
    assert abs(brightness[0] - brightness[1]) > 500


def test_the_page_asks_for_nothing(page: Chrome) -> None:
    """A request, or a script that the policy refuses, would be in the browser's log."""
    assert page.get_log("browser") == []
    events = [json.loads(one["message"])["message"] for one in page.get_log("performance")]
    urls = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
        and event["params"]["documentURL"].startswith("file:")
    }
    assert urls == {page.current_url}
