"""The page in a browser: it loads, filters, asks, shows names as text, and asks nobody else for anything."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import uvicorn

from dropmill.commands import Commands
from dropmill.page.app import page_app
from dropmill.page.behind import make_page
from tests.dropmill.browser import Browser
from tests.dropmill.page_lake import HOSTILE_CLASS, HOSTILE_KEY, make_lake

pytestmark = pytest.mark.slow

_CARDS = "document.querySelectorAll('.gallery li').length"
_LOADED = "[...document.querySelectorAll('.gallery img')].some((i) => i.complete && i.naturalWidth > 0)"


class Served:
    """A page that listens, and what it was asked to do."""

    def __init__(self, folder: Path) -> None:
        self.mill = make_lake(folder)
        self.commands = Commands()
        self.page = make_page(
            str(self.mill.lake_folder), cache=folder / "cache", commands=self.commands, token="t0ken"
        )
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(page_app(self.page), log_config=None, lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        # Nothing is to be counted any more when Python ends.
        self.page.summary.now(wait_s=60)
        self.server.should_exit = True
        self.thread.join(timeout=30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("browser"))
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser(served: Served) -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    with Browser(chromium) as browser:
        browser.look(1280, 900)
        browser.open(f"{served.url}/#/")
        browser.wait("document.querySelector('main h1')")
        yield browser
        # Of the whole session: nothing went wrong, and nothing was asked of anybody else.
        # What is asked wrongly on purpose is answered with 400, and markup is refused.
        expected = ("400 (Bad Request)", "TrustedHTML")
        assert not [error for error in browser.errors if not any(part in error for part in expected)]
        assert browser.requests
        assert all(url.startswith((served.url, "data:", "blob:", "about:")) for url in browser.requests)


def go(browser: Browser, place: str) -> None:
    # The view before goes at once, so that nothing of it is taken for what is waited for.
    browser.run(f"document.querySelector('main').replaceChildren(), location.hash = {place!r}")


def test_data_sets_appear_with_their_gate_and_classes(browser: Browser) -> None:
    browser.wait("document.querySelectorAll('.cards .card').length === 2")
    text = browser.run("document.querySelector('main').innerText")
    assert "aircraft" in text
    assert "airliner" in text
    go(browser, "#/dataset?name=aircraft")
    browser.wait("document.querySelector('h1')?.innerText.startsWith('aircraft')")
    assert browser.run("document.querySelectorAll('svg.chart rect').length") > 3
    assert browser.run("document.activeElement.tagName") == "H1"
    assert browser.run("document.title").startswith("aircraft")


def test_the_gallery_shows_pictures_with_boxes_and_is_filtered(browser: Browser, served: Served) -> None:
    go(browser, "#/gallery")
    (images,) = served.mill.rows("SELECT count(*) AS n FROM images")
    browser.wait(f"{_CARDS} === {images['n']}")
    browser.wait(_LOADED)
    assert browser.run("document.querySelectorAll('.gallery .boxes rect').length") > 5
    assert browser.run("document.querySelectorAll('.gallery .boxes polygon, .gallery canvas').length") > 0
    browser.wait(
        "[...document.querySelectorAll('#filter-category option')].some((o) => o.value === 'airliner')"
    )
    browser.run(
        """(() => { const select = document.querySelector('#filter-category'); select.value = 'airliner';
           select.dispatchEvent(new Event('change', { bubbles: true })); })()"""
    )
    (some,) = served.mill.rows(
        "SELECT count(DISTINCT sample) AS n FROM annotations WHERE category = 'airliner'"
    )
    assert some["n"] < images["n"]
    browser.wait(f"{_CARDS} === {some['n']}")
    go(browser, "#/gallery?sql=" + "SELECT dataset, sample FROM images LIMIT 2".replace(" ", "%20"))
    browser.wait(f"{_CARDS} === 2")
    go(browser, "#/gallery?sql=SELECT%201")
    assert "dataset and sample" in browser.wait("document.querySelector('.progress .error')?.innerText")


def test_hostile_names_are_text(browser: Browser) -> None:
    go(browser, "#/model?name=detector-1/best.pt")
    assert HOSTILE_CLASS in browser.wait("document.querySelector('main details pre')?.textContent")
    go(browser, "#/gallery?dataset=odd")
    browser.wait(f"{_CARDS} === 1")
    assert HOSTILE_CLASS in browser.run("document.querySelector('.gallery').innerText")
    browser.run("document.querySelector('.gallery a').click()")
    browser.wait("document.querySelector('.sample')")
    assert HOSTILE_CLASS in browser.run("document.querySelector('.sample').innerText")
    go(browser, "#/quarantine")
    browser.wait("document.querySelector('main table')")
    assert HOSTILE_KEY in browser.run("document.querySelector('main').innerText")
    go(browser, f'#/sql?query={"SELECT"} 1 AS "<img src=x onerror=alert(2)>"'.replace(" ", "%20"))
    browser.wait("document.querySelector('main th')")
    assert browser.run("document.querySelectorAll('main img[src=x], main script').length") == 0
    # Were a script to get in, the browser would refuse to run it.
    browser.run(
        """(() => { const div = document.createElement('div');
           try { div.innerHTML = '<img src=x onerror=boom()>'; } catch { globalThis.refused = true; } })()"""
    )
    assert browser.run("globalThis.refused === true")


def test_the_console_answers_by_keyboard(browser: Browser) -> None:
    go(browser, "#/sql")
    browser.wait("document.querySelector('#query')")
    browser.run(
        "(() => { const q = document.querySelector('#query'); q.value = 'SELECT 40 + 2 AS n'; q.focus(); })()"
    )
    browser.press("Enter", code=13, modifiers=2)
    browser.wait("document.querySelector('main td')?.innerText === '42'")
    browser.run(
        "(() => { const q = document.querySelector('#query'); q.value = 'DROP TABLE images'; q.focus(); })()"
    )
    browser.press("Enter", code=13, modifiers=2)
    assert "read only" in browser.wait("document.querySelector('main .error')?.innerText")


def test_a_retry_wants_the_token_and_reaches_the_service(browser: Browser, served: Served) -> None:
    go(browser, "#/quarantine")
    retry = "[...document.querySelectorAll('button')].find((b) => b.ariaLabel?.startsWith('Retry odd'))"
    browser.wait(f"{retry} !== undefined")
    browser.run("sessionStorage.setItem('dropmill-token', 't0ken')")
    browser.run(f"{retry}.click()")
    browser.wait("document.querySelector('p[role=status]:not(#state)')?.innerText.includes('asked to retry')")
    command = served.commands.next()
    assert command is not None
    assert (command.action, command.keys) == ("retry", (HOSTILE_KEY,))


def test_batches_appear_as_they_are_committed_and_every_view_has_its_landmarks(
    browser: Browser, served: Served
) -> None:
    go(browser, "#/batches")
    browser.wait("document.querySelectorAll('main tbody tr').length === 2")
    served.mill.image("late/z.png")
    served.mill.ingest()
    browser.wait("document.querySelectorAll('main tbody tr').length === 3")
    for place in ("#/runs", "#/run?name=detector-1", "#/models", "#/model?name=detector-1/best.pt", "#/api"):
        go(browser, place)
        browser.wait(f"location.hash === {place!r} && document.querySelector('main h1') !== null")
        browser.wait("document.querySelectorAll('main details, main table, main .card').length > 0")
        unnamed = browser.run(
            """[...document.querySelectorAll('main :is(button, a, select, textarea, input)')]
               .filter((e) => !(e.textContent || e.ariaLabel || e.labels?.length)).length"""
        )
        assert unnamed == 0
        assert browser.run(
            "[...document.querySelectorAll('main table')].every((t) => t.caption?.textContent)"
        )
    assert browser.run("document.querySelectorAll('header, nav, main, footer').length") == 4


def test_a_filter_is_chosen_by_keys_and_keeps_the_focus(browser: Browser) -> None:
    go(browser, "#/gallery")
    browser.wait(
        "[...document.querySelectorAll('#filter-category option')].some((o) => o.value === 'airliner')"
    )
    browser.run("document.querySelector('#filter-category').focus()")
    options = browser.run("[...document.querySelectorAll('#filter-category option')].map((o) => o.value)")
    for wanted in options[1:3]:
        browser.press("ArrowDown", code=40)
        browser.wait(f"new URLSearchParams(location.hash.split('?')[1]).get('category') === {wanted!r}")
        browser.wait("document.activeElement?.id === 'filter-category'")
        browser.wait(f"document.activeElement.value === {wanted!r}")


def test_what_is_new_takes_the_focus_from_nobody(browser: Browser, served: Served) -> None:
    go(browser, "#/batches")
    rows = browser.wait("document.querySelectorAll('main tbody tr').length")
    for chosen in ("h1", "[role=group]"):
        browser.run(f"document.querySelector('main {chosen}').focus()")
        served.mill.image(f"late/{chosen[1:3]}.png")
        served.mill.ingest()
        rows += 1
        browser.wait(f"document.querySelectorAll('main tbody tr').length === {rows}")
        assert browser.run(f"document.activeElement === document.querySelector('main {chosen}')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_that_keeps_people_out(browser: Browser, served: Served, *, dark: bool) -> None:
    script = (resources.files("axe_core_python") / "axe.min.js").read_text()
    (box,) = served.mill.rows("SELECT sample FROM annotations WHERE dataset = 'aircraft' LIMIT 1")
    browser.look(1280, 900, dark=dark)
    browser.run(f"{script}; true")
    wrong = {}
    for place, there in {
        "#/": ".cards .card",
        "#/dataset?name=aircraft": "svg.chart",
        "#/gallery?dataset=aircraft": ".gallery li",
        f"#/sample?dataset=aircraft&sample={box['sample']}": ".sample tbody tr",
        "#/batches": "tbody tr",
        "#/quarantine": "tbody tr",
        "#/run?name=detector-1": "svg.chart",
        "#/model?name=detector-1/best.pt": "tbody tr",
        "#/sql?query=SELECT 1 AS n".replace(" ", "%20"): "tbody tr",
        "#/sql?query=nonsense": ".error",
        "#/api": "details",
    }.items():
        go(browser, place)
        browser.wait(f"document.querySelector('main {there}')")
        found = browser.run(
            """axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) =>
                 violations.map((one) => [one.id, one.help, one.nodes[0].html.slice(0, 200)]))"""
        )
        wrong |= {place: found} if found else {}
    browser.look(1280, 900)
    assert not wrong, wrong


def test_it_fits_a_narrow_window_light_and_dark(browser: Browser, tmp_path: Path) -> None:
    for dark in (False, True):
        browser.look(390, 800, dark=dark)
        for place in ("#/", "#/gallery", "#/dataset?name=aircraft", "#/quarantine", "#/sql"):
            go(browser, place)
            browser.wait("document.querySelector('main h1') !== null")
            assert browser.run("document.documentElement.scrollWidth") <= 390, place
        shade = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 100")
        assert shade is dark
    browser.look(1280, 900)
