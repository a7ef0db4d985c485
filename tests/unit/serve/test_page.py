"""The page: it loads nothing from elsewhere, and a reader finds the way about it; Chromium, in the slow tier."""

import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from starlette.testclient import TestClient

from promptuary.serve.app import PAGE, application
from promptuary.serve.engine import Engine, Limits
from promptuary.serve.keys import Guard, Key, hashed
from promptuary.store import Store
from tests.saved import valid
from tests.serving import Live, Told, live, until

PLACE = files("promptuary.serve") / "page"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def test_the_page_names_nothing_from_elsewhere_and_has_no_script_or_style_in_it() -> None:
    for name in (name or "index.html" for name in PAGE):
        text = (PLACE / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z]", re.sub(r"(?m)^\s*//.*$| // .*$", "", text)), name
    html = (PLACE / "index.html").read_text()
    valid(html)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*src=)", html)
    script = (PLACE / "script.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script)


def test_every_file_of_the_page_is_served_with_its_type_and_policy(store: Store) -> None:
    asking = TestClient(application(Told(), store))  # type: ignore[arg-type]
    html = asking.get("/")
    for name in re.findall(r'(?:src|href)="([^"]+)"', html.text):
        answer = asking.get(f"/{name}")
        assert answer.status_code == 200, name
        assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert html.headers["content-type"].startswith("text/html")
    assert {p.name for p in PLACE.iterdir()} == {name or "index.html" for name in PAGE}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def serving(store: Store) -> Iterator[Live]:
    with live(application(Engine(store, Limits()), store)) as running:
        yield running


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def many(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def opened(browser: Any, url: str) -> None:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(url)


def pick(browser: Any, *names: str) -> None:
    for name in names:
        assert until(lambda name=name: bool(many(browser, f"input[value='{name}']")))  # type: ignore[misc]
        one(browser, f"input[value='{name}']").click()
        assert until(lambda: one(browser, "#status").text == "")


def clean(browser: Any) -> bool:
    """Whether the browser had nothing to complain of."""
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.slow
def test_several_tasks_are_compared_on_one_text(browser: Any, serving: Live, store: Store) -> None:
    opened(browser, serving.url)
    pick(browser, "mood", "tags", "notes")
    one(browser, "#text").send_keys("I like the glass box")
    one(browser, "#go").click()
    assert until(lambda: one(browser, "#status").text.startswith("Answered in"))
    from promptuary.data.source import Row

    [mood] = store.get("mood").predict([Row({"text": "I like the glass box"}, "here")])
    [note] = store.get("notes").predict([Row({"text": "I like the glass box"}, "here")])
    assert one(browser, "article[data-task=mood] .said").text == mood.label
    shares = [element.text for element in many(browser, "article[data-task=mood] .share")]
    assert shares == [f"{100 * p:.1f} %" for p in sorted(mood.probabilities.values(), reverse=True)]
    assert len(many(browser, "article[data-task=tags] li")) == 5
    assert one(browser, "article[data-task=notes] .written").text.strip() == note.prediction
    one(browser, "article[data-task=mood] summary").click()
    assert len(many(browser, "article[data-task=mood] figure rect")) == store.get("mood").model.generator.length + 1
    assert "prompt-tuning" in one(browser, "article[data-task=mood] table").text
    assert clean(browser)


@pytest.mark.slow
def test_a_task_with_two_texts_asks_for_both_by_their_names(browser: Any, serving: Live) -> None:
    opened(browser, serving.url)
    pick(browser, "spans")
    assert (one(browser, "#text-label").text, one(browser, "#pair-label").text) == ("question", "context")
    one(browser, "#text").send_keys("what broke")
    one(browser, "#pair").send_keys("the glass lid broke")
    one(browser, "#go").click()
    assert until(lambda: bool(many(browser, "article[data-task=spans] .said")))
    assert one(browser, "article[data-task=spans] .said").text in "the glass lid broke"


@pytest.mark.slow
def test_the_keyboard_is_enough(browser: Any, serving: Live) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, serving.url)
    assert until(lambda: len(many(browser, "#tasks input")) == 5)
    one(browser, "#filter").send_keys("moo" + Keys.TAB)
    assert [box.get_attribute("value") for box in many(browser, "#tasks input")] == ["mood"]
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    assert until(lambda: bool(one(browser, "#tasks input").is_selected()))
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "text"
    browser.switch_to.active_element.send_keys("I like it", Keys.CONTROL + Keys.ENTER)
    assert until(lambda: bool(many(browser, "article[data-task=mood] .said")))


@pytest.mark.slow
def test_a_small_screen_shows_the_whole_width(browser: Any, serving: Live) -> None:
    size = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    opened(browser, serving.url)
    pick(browser, "mood", "notes")
    one(browser, "#text").send_keys("I like the glass box")
    one(browser, "#go").click()
    assert until(lambda: one(browser, "#status").text.startswith("Answered in"))
    for summary in many(browser, "article details > summary"):
        browser.execute_script("arguments[0].click()", summary)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 375
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_the_reader_is_asked_for_a_key_and_told_what_is_wrong(browser: Any, store: Store) -> None:
    from selenium.webdriver.common.keys import Keys

    guard = Guard([Key(name="reader", sha256=hashed("pk-reader"), tasks=["mood"])])
    with live(application(Told(), store, guard=guard)) as serving:  # type: ignore[arg-type]
        opened(browser, serving.url)
        assert until(lambda: one(browser, "#status").text.startswith("A key is needed"))
        one(browser, "#key").send_keys("pk-reader" + Keys.TAB)
        pick(browser, "mood")
        one(browser, "#text").send_keys("I like it")
        one(browser, "#go").click()
        assert until(lambda: bool(many(browser, "article[data-task=mood] .said")))
        assert one(browser, "article[data-task=mood] .said").text == "good"
        browser.execute_script("sessionStorage.clear()")
