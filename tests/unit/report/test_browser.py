"""The page in a browser: a small screen shows all of it, links lead to records, a table is ordered by a click."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptuary.report.writing import report, save
from tests.unit.report import made

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or service is None:
        pytest.skip("chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.binary_location = browser
    own = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    yield own
    own.quit()


@pytest.fixture(scope="module", params=["study", "search"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = getattr(made, request.param)(tmp_path_factory.mktemp(request.param) / "of")
    [out] = save(report(folder), folder / "report.html")
    return out


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_no_screen_scrolls_sideways(driver: Any, page: Path, width: int) -> None:
    shape = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    driver.get(page.as_uri())
    driver.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    shown, wide = driver.execute_script("const e = document.documentElement; return [e.clientWidth, e.scrollWidth]")
    assert wide == shown <= width


def test_a_click_orders_a_table_and_nothing_is_refused_or_asked_for(driver: Any, page: Path) -> None:
    driver.get(page.as_uri())
    order = "return [...document.querySelectorAll('table.ordered tbody')[0].rows].map((row) => row.cells[%d].dataset.v)"
    column = 1 if page.parent.parent.name.startswith("study") else 2
    click = "document.querySelectorAll('table.ordered')[0].tHead.rows[0].cells[%d].firstChild.click()"
    driver.execute_script(click % column)
    down = [float(value) for value in driver.execute_script(order % column)]
    assert down == sorted(down, reverse=True)
    driver.execute_script(click % column)
    assert [float(value) for value in driver.execute_script(order % column)] == sorted(down)
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_link_opens_the_records_that_it_leads_to(driver: Any, page: Path) -> None:
    driver.get(page.as_uri())
    driver.execute_script("document.querySelectorAll('td a')[0]?.click()")
    closed = "const own = document.getElementById(location.hash.slice(1)); return own !== null && own.open === false"
    assert driver.execute_script(closed) is False
