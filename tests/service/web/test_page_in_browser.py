"""The page at / in Chromium: it answers, follows keys, and loads nothing from another server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from normfold.service.auth.key_admin import create_key
from scripts.system_packages import SEARCH_PATH
from tests.support.bundles import LABELS, BundleWriter
from tests.support.service import Service, StartService

pytestmark = [pytest.mark.slow, pytest.mark.alone]

PLANTED = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser that reaches this machine alone."""
    programs = [shutil.which(name, path=SEARCH_PATH) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("Chromium or its driver is not installed: make system-packages")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"),
        *("--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1"),  # no other server can be reached
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(str(programs[1]))) as driver:
        driver.implicitly_wait(0)
        yield driver


class Browser:
    """The page of one service, as a user handles it."""

    def __init__(self, driver: webdriver.Chrome, service: Service) -> None:
        self.driver, self.url = driver, f"{service.client.base_url}"
        driver.get_log("browser")
        driver.get("about:blank")
        driver.get(f"{self.url}/")

    def find(self, selector: str, text: str = "") -> Any:
        """Return the first element of a selector that has a text, once there is one."""

        def look(driver: webdriver.Chrome) -> Any:
            return next((one for one in driver.find_elements(By.CSS_SELECTOR, selector) if text in one.text), None)

        return WebDriverWait(self.driver, 20, ignored_exceptions=[Exception]).until(look)

    def problems(self) -> list[str]:
        """Return what the browser complains of: errors, and violations of the policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def overflows(self, width: int) -> bool:
        """Return whether the page is wider than a window of this width."""
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wide = self.driver.execute_script("return document.documentElement.scrollWidth > innerWidth")
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        return bool(wide)


def draw(browser: Browser) -> None:
    """Draw a stroke from top to bottom."""
    canvas = browser.find("canvas")
    actions = ActionChains(browser.driver).move_to_element_with_offset(canvas, 0, -100).click_and_hold()
    for _ in range(10):
        actions.move_by_offset(0, 20)
    actions.release().perform()


def test_drawn_picture_is_answered(chromium: webdriver.Chrome, bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    browser = Browser(chromium, start(bundles.root))
    browser.find("h2", "Try digits")
    assert not browser.find("button.main").is_enabled()
    draw(browser)
    browser.find("button.main").click()
    assert browser.find(".result").text.split(",")[0] in LABELS
    assert browser.find("[aria-live] canvas").size["width"] > 0
    browser.find("summary", "curl").click()
    assert f"{browser.url}/v1/models/digits/versions/1:predict" in browser.find("pre").text
    assert [width for width in (1280, 390, 320) if browser.overflows(width)] == []
    assert browser.problems() == []


def test_row_is_answered(chromium: webdriver.Chrome, bundles: BundleWriter, start: StartService) -> None:
    bundles.rows()
    browser = Browser(chromium, start(bundles.root))
    browser.find("button.main").click()
    assert browser.find("[aria-live] pre").text.strip()
    field = browser.find(".fields input")
    field.clear()
    field.send_keys("x")
    browser.find("button.main").click()
    assert "needs a number" in browser.find("[role=alert]").text
    assert browser.problems() == []


def test_tensors_are_answered(chromium: webdriver.Chrome, bundles: BundleWriter, start: StartService) -> None:
    bundles.pair()
    browser = Browser(chromium, start(bundles.root))
    browser.find("button.main").click()
    assert browser.find("[aria-live] pre").text.strip()
    text = browser.find("textarea")
    text.clear()
    text.send_keys("{")
    browser.find("button.main").click()
    assert "not JSON" in browser.find("[role=alert]").text
    assert browser.problems() == []


def test_text_of_a_bundle_is_no_markup(chromium: webdriver.Chrome, bundles: BundleWriter, start: StartService) -> None:
    folder = bundles.digits()
    planted = (folder / "manifest.json").read_text().replace(f'"{LABELS[0]}"', f'"{PLANTED}"')
    assert PLANTED in planted
    (folder / "manifest.json").write_text(planted)
    browser = Browser(chromium, start(bundles.root))
    draw(browser)
    browser.find("button.main").click()
    assert browser.find("th", PLANTED)
    assert chromium.find_elements(By.CSS_SELECTOR, "main img") == []
    assert browser.problems() == []


def test_key_is_asked_for_and_its_scopes_decide(
    chromium: webdriver.Chrome, bundles: BundleWriter, start: StartService, tmp_path: Path
) -> None:
    bundles.digits()
    keys = tmp_path / "keys.json"
    _, sent = create_key(keys, "viewer", ["infer"])
    browser = Browser(chromium, start(bundles.root, keys=keys, wait=False))
    field = browser.find("input[type=password]")
    field.send_keys("wrong")
    browser.find("button", "Use the key").click()
    assert "does not accept" in browser.find("[role=alert]").text
    field = browser.find("input[type=password]")
    field.clear()
    field.send_keys(sent)
    browser.find("button", "Use the key").click()
    browser.find("h2", "Try digits")
    assert "viewer" in browser.find("p.note", "Key").text
    assert sent not in chromium.current_url
    assert chromium.get_cookies() == []
    browser.find("nav a", "Drift").click()
    assert browser.find("p", "scope metrics")
    browser.find("button", "Forget").click()
    assert browser.find("input[type=password]")


def test_model_is_unloaded_once_its_name_is_typed(
    chromium: webdriver.Chrome, bundles: BundleWriter, start: StartService
) -> None:
    bundles.digits()
    service = start(bundles.root, model_control="explicit", wait=False)
    assert service.client.post("/v2/repository/models/digits/load").status_code == 200
    browser = Browser(chromium, service)
    browser.find("nav a", "Models").click()
    browser.find("button", "Unload").click()
    unload = browser.find("form button.main")
    assert not unload.is_enabled()
    browser.find("form input").send_keys("digits")
    unload.click()
    assert browser.find("td .fail", "unavailable")
    assert service.client.get("/v2/models/digits/ready").status_code == 503
    browser.find("button", "Load").click()
    assert browser.find("td .pass", "ready")
    assert browser.problems() == []
