"""The HTML pages in a real browser: headless Chromium."""

from __future__ import annotations

import hashlib
import shutil

import anyio
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from helpers import under_uvicorn
from objrepo import DiskRepository
from objrepo.asgi import ObjectApp

TOKEN = "s3cret"

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080600000"
    "01f15c4890000000d49444154789c6360f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


@pytest.fixture
def url(folder):
    async def make():
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            await repo.put_many(
                [b"some <b>text</b>", PNG, bytes(range(256)), *(b"%d" % number for number in range(150))]
            )

    anyio.run(make)
    with under_uvicorn(ObjectApp(DiskRepository(folder), token=TOKEN, max_bytes=50_000_000)) as url:
        yield url


@pytest.fixture
def browser(request, tmp_path):
    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1000,800"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'chromium'}")
    if getattr(request, "param", "") == "without JavaScript":
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.binary_location = shutil.which("chromium")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options, service)
    yield browser
    browser.quit()


@pytest.mark.parametrize("browser", ["with JavaScript", "without JavaScript"], indirect=True)
def test_listing_and_searching(url, browser):
    browser.get(url)
    assert browser.title == "Objects"
    assert len(browser.find_elements(By.CSS_SELECTOR, "ol a")) == 100
    browser.find_element(By.LINK_TEXT, "Next page").click()
    WebDriverWait(browser, 10).until(lambda browser: "after=" in browser.current_url)
    keys = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "ol a")]
    assert len(keys) == 53
    browser.find_element(By.NAME, "key").send_keys(keys[0])
    browser.find_element(By.CSS_SELECTOR, "form[role=search] button").click()
    WebDriverWait(browser, 10).until(lambda browser: browser.title == "Object")
    assert keys[0] in browser.find_element(By.TAG_NAME, "main").text
    link = browser.find_element(By.LINK_TEXT, "Download").get_attribute("href")
    assert link == f"{url}/{keys[0]}"


def test_previews(url, browser):
    browser.get(f"{url}/?key={key_of(PNG)}")
    image = browser.find_element(By.CSS_SELECTOR, "main img")
    WebDriverWait(browser, 10).until(lambda browser: image.get_property("naturalWidth") == 1)
    browser.get(f"{url}/?key={key_of(b'some <b>text</b>')}")
    assert browser.find_element(By.TAG_NAME, "pre").text == "some <b>text</b>"
    browser.get(f"{url}/?key={key_of(bytes(range(256)))}")
    assert browser.find_element(By.TAG_NAME, "pre").text.startswith("00 01 02 03")
    assert [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]] == []


def test_upload_form(url, browser, tmp_path):
    content = bytes(20_000_000)
    (tmp_path / "upload").write_bytes(content)
    browser.get(url)
    outcome = browser.find_element(By.ID, "outcome")

    def upload(token):
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "upload"))
        browser.find_element(By.ID, "token").clear()
        browser.find_element(By.ID, "token").send_keys(token)
        browser.find_element(By.CSS_SELECTOR, "#upload button").click()

    upload("wrong")
    WebDriverWait(browser, 20).until(lambda browser: outcome.text)
    assert "token is missing or wrong" in outcome.text or "interrupted" in outcome.text
    browser.get(url)
    outcome = browser.find_element(By.ID, "outcome")
    upload(TOKEN)
    WebDriverWait(browser, 20).until(lambda browser: "Stored as" in outcome.text)
    bar = browser.find_element(By.ID, "progress")
    assert (bar.get_property("value"), bar.get_property("max")) == (len(content), len(content))
    browser.save_screenshot(str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 10_000
    outcome.find_element(By.TAG_NAME, "a").click()
    assert "20,000,000 bytes" in browser.find_element(By.TAG_NAME, "main").text


def key_of(content):
    return hashlib.sha256(content).hexdigest()
