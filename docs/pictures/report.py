"""Make the pictures of docs/report.md: `python docs/pictures/report.py FOLDER`.

Runs the small study `study.toml` in FOLDER (it goes on where it was; `promptuary bench` shares the work better), writes
its report, and photographs it by a headless Chromium, wide and light, narrow and dark.
"""

import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver

from promptuary.bench import run, study
from promptuary.bench.plan import read
from promptuary.report.writing import REPORT, report, save

HERE = Path(__file__).parent
# Name, width and height in points, scheme, and the part of the page that it begins with.
PICTURES = (("report.png", 1280, 1250, "light", "scores"), ("report-narrow.png", 375, 1500, "dark", "words"))


def browser() -> webdriver.Chrome:
    """A Chromium without a window."""
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
    ):
        options.add_argument(argument)
    options.binary_location = "/usr/bin/chromium"
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def photograph(driver: webdriver.Chrome, page: Path, out: Path, size: tuple[int, int], light: str, part: str) -> None:
    """A page from one of its parts on, as a small PNG of `size` points."""
    width, height = size
    shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": light}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    driver.get(page.resolve().as_uri())
    driver.execute_script("document.getElementById(arguments[0]).scrollIntoView()", part)
    driver.save_screenshot(str(out))
    Image.open(out).convert("RGB").quantize(96).save(out, optimize=True)


def main(folder: Path) -> None:
    """Run, report, photograph."""
    plan = read(HERE / "study.toml")
    run.run(plan, folder)
    study.export(plan, folder)
    save(report(folder), folder / REPORT)
    driver = browser()
    try:
        for name, width, height, light, part in PICTURES:
            photograph(driver, folder / REPORT, HERE / name, (width, height), light, part)
    finally:
        driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
