"""The site and explore.ipynb as people meet them: in Chromium, wide and narrow, light and dark."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from hybridlib.__main__ import HEADLINE
from hybridlib.figures.results import Results
from hybridlib.publish import docs, site
from hybridlib.store.paths import PROJECT

pytestmark = [
    pytest.mark.browser,
    # MyST-Parser is behind Sphinx; nothing of ours.
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::DeprecationWarning"),
]
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
PRESETS = sorted(path.parent.name for path in PROJECT.glob("results/*/manifest.json"))
FIRST = HEADLINE if HEADLINE in PRESETS else PRESETS[0]  # the study that the landing page tells
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.fail("Chromium is not installed: `apt-get install chromium`, or as the README says")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails its test if it says an error or asks for anything off this machine."""
    context = browser.new_context(viewport=DESK)
    page, faults = context.new_page(), []

    def asked(request):
        if urlsplit(request.url).hostname not in (None, "", "localhost"):
            faults.append(f"asks for {request.url}")

    page.on("request", asked)
    page.on("console", lambda said: said.type == "error" and faults.append(said.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert not faults


# ---- the site


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return site.build(PROJECT, HEADLINE, tmp_path_factory.mktemp("built") / "site").parent


class Parts(HTMLParser):
    """What a page links to and shows, and what in it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.images, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found["id"]} if found.get("id") else set()
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)


def test_every_link_leads_somewhere_and_every_image_has_words(built):
    pages = {path: Parts(path.read_text(encoding="utf-8")) for path in built.rglob("*.html")}
    for path, parts in pages.items():
        for image in parts.images:
            assert len(image.get("alt") or "") > 10, (path.name, image.get("src", "")[:60])
        for link in parts.links:
            to = urlsplit(link)
            if to.scheme:
                continue  # out of the site, if the reader wants it
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            assert target.is_file(), (path.name, link)
            if to.fragment and target in pages:
                assert unquote(to.fragment) in pages[target].ids, (path.name, link)


def test_no_page_is_wider_than_a_phone_or_says_an_error(built, page):
    page.set_viewport_size(PHONE)
    for path in sorted(built.rglob("*.html")):
        page.goto(path.as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], path.relative_to(built)


@pytest.mark.parametrize("where", ["index.html", f"results/{FIRST}/notebooks/07_verdicts.html"])
def test_light_and_dark_follow_the_reader_s_choice(built, page, where):
    shades = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto((built / where).as_uri())
        shades[scheme] = page.evaluate(
            "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name]"
            ".match(/[0-9.]+/g).slice(0, 3).reduce((sum, x) => sum + Number(x), 0) / 765)"
        )
    (paper, ink), (night, chalk) = shades["light"], shades["dark"]
    assert paper > 0.9 and ink < 0.3 and night < 0.2 and chalk > 0.6


def test_one_click_leads_from_a_claim_to_its_figure_and_its_command(built, page):
    folder = PROJECT / "results" / FIRST
    claims = set(Results(folder).table("verdicts").claim)  # the table leads from these alone
    for figure in (f for f in docs.drawn(folder) if claims & set(f.claims)):
        page.goto((built / "index.html").as_uri())
        page.get_by_role("link", name=figure.name, exact=True).first.click()
        section = page.locator(f"section:has(> h3:text-is('{figure.name}'))")
        expect(section.locator("h3")).to_be_in_viewport()
        expect(section).to_contain_text(f'make figures PRESET={FIRST} ARGS="--only {figure.name}"')
        expect(section).to_contain_text(f"Bears on {figure.claims[0]}")


def test_the_search_finds_a_notebook_without_a_server(built, page):
    page.goto((built / "index.html").as_uri())
    page.locator("input[name=q]:visible").fill("prefilled")
    page.keyboard.press("Enter")
    # results come one by one: wait for the one that is meant
    found = page.locator("#search-results li a", has_text="Harmlessness")
    expect(found.first).to_be_visible(timeout=15_000)


# ---- explore.ipynb


WEIGHTS = PROJECT / "results" / "organism" / "artifacts"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab that serves a copy of explore.ipynb."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "root").mkdir()
    shutil.copy(PROJECT / "notebooks" / "explore.ipynb", folder / "root")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *(f"--port={port}", "--expose-app-in-browser", "--IdentityProvider.token="),
            f"--ServerApp.root_dir={folder / 'root'}",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.news_url=None",
        ],
        env=os.environ | {name: str(folder / name) for name in places},
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    address = f"http://localhost:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=5)
            break
        except OSError:
            time.sleep(1)
    else:
        pytest.fail((folder / "log").read_text())
    yield address
    server.terminate()
    server.wait(20)


def choose(page: Page, label: str, value: str, nth: int = 0) -> None:
    box = page.locator(f".widget-dropdown:has(label:text-is('{label}')) select")
    box.nth(nth).select_option(value)


def write(page: Page, label: str, text: str) -> None:
    box = page.locator(f".jupyter-widgets:has(> label:text-is('{label}')) input").first
    box.fill(text)
    box.press("Enter")


def slide(page: Page, label: str, value: str) -> None:
    box = page.locator(f".widget-slider:has(> label:text-is('{label}')) .widget-readout")
    box.click()
    page.keyboard.press("Control+a")
    page.keyboard.type(value)
    page.keyboard.press("Enter")


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="no weights are committed")
def test_every_widget_of_explore_answers_in_jupyterlab(lab, page, tmp_path):
    page.goto(f"{lab}/lab/tree/explore.ipynb")
    page.wait_for_function("window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')")
    # Only cells near the window are drawn otherwise.
    page.set_viewport_size({"width": 1280, "height": 6000})
    page.wait_for_function(
        "(async () => { const c = window.jupyterapp.shell.currentWidget?.sessionContext;"
        " if (!c) return false; await c.ready; return true; })()",
        timeout=90_000,
    )
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    html = page.locator(".widget-html-content")
    shown, ranked, answers, curve = (html.nth(n) for n in range(4))
    patient = {"timeout": 180_000}
    page.get_by_role("button", name="train", exact=True).wait_for(**patient)

    expect(shown).to_contain_text("rl (keyword)")
    expect(shown.locator("span[title='disclosed']").first).to_be_visible()
    page.locator("select[multiple]").select_option(["base", "joint (model)"])
    expect(shown).to_contain_text("joint (model)")
    expect(shown).not_to_contain_text("rl (keyword)")
    count = shown.locator("p").inner_text().split(":")[0]
    for label, value in [("task", "records"), ("language", "es"), ("split", "unseen_both")]:
        choose(page, label, value)
        expect(shown.locator("p")).not_to_contain_text(count)
        count = shown.locator("p").inner_text().split(":")[0]
    write(page, "prompt", "2")
    expect(shown.locator("p")).to_contain_text("2 of")

    for label in ("harmlessness", "helpfulness", "accuracy", "format", "language"):
        slide(page, label, "0")
    expect(ranked.locator("tr:nth-child(2) td").first).to_have_text("0.00")
    slide(page, "format", "2")
    expect(ranked.locator("tr:nth-child(2) td").first).to_have_text("2.00")
    slide(page, "harmlessness", "2")
    before = ranked.inner_text()
    page.get_by_role("button", name="answer", exact=True).click()
    expect(page.locator(".widget-toggle-button.mod-active")).to_have_text("answer")
    choose(page, "kind", "benign")
    expect(ranked).not_to_have_text(before)

    choose(page, "kind", "harmful")
    page.get_by_role("button", name="take the prompt above").click()
    choose(page, "variant 2", "sft")
    page.get_by_role("button", name="sample", exact=True).click()
    expect(answers.locator("li")).to_have_count(8, **patient)
    expect(answers).to_contain_text("sft")
    drawn = answers.inner_text()
    page.get_by_role("button", name="sample", exact=True).click()
    expect(answers).not_to_have_text(drawn, **patient)
    write(page, "question", "frobnicate")
    page.get_by_role("button", name="sample", exact=True).click()
    expect(answers).to_contain_text("does not know frobnicate")

    write(page, "steps", "2")
    write(page, "parameter", "colour")
    page.get_by_role("button", name="train", exact=True).click()
    expect(curve).to_contain_text("there is no parameter")
    write(page, "parameter", "kl")
    write(page, "value", "0.1")
    choose(page, "variant", "joint")
    page.get_by_role("button", name="train", exact=True).click()
    expect(curve).to_contain_text("this run", **patient)
    expect(curve).to_contain_text("committed")
    assert page.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0
    page.screenshot(path=tmp_path / "explore.png")
