"""The page of lzpenalty.view in a real browser: `make test-browser`, with Debian's package chromium or any Chromium that is
installed, and playwright. No test depends on time."""

import http.server
import re
import shutil
import threading

import numpy as np
import pytest

from lzpenalty.view import Text

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; `make test-browser` does it")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROSE = "It was the best of times, it was the worst of times, it was the age of wisdom.\n\n"
LOOP = PROSE + "And so it goes on, and on. " * 12 + "\nThen it ends.\n"


def words(ids):
    return "".join(map(chr, ids))


def text_of(source, **options):
    return Text(source, words, **options)


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"there is no browser here: none of {', '.join(NAMES)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens the page of a text. At the end of a test nothing may have been said in the console or asked of a server."""
    pages, said, asked = [], [], []

    def show(text, scheme="light", width=1200, height=800):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        text.save(tmp_path / "page.html")
        page.goto((tmp_path / "page.html").as_uri())
        pages.append(page)
        return page

    yield show
    for page in pages:
        page.close()
    assert not said and [url.rpartition("/")[2] for url in asked] == ["page.html"] * len(pages)


def focused(page):
    return page.evaluate("document.activeElement.textContent")


def readout(page):
    return page.inner_text("output")


def blocks(page):
    return page.eval_on_selector_all("main > div", "blocks => blocks.map(block => block.textContent).join('')")


def box(page, selector):
    found = page.eval_on_selector(selector, "element => element.getBoundingClientRect().toJSON()")
    return [found[side] for side in ("left", "top", "right", "bottom")]


def until(page, happened):
    """Lets the page work on; to wait as playwright does needs what the page's policy forbids."""
    for _ in range(1000):
        if happened():
            return
        page.wait_for_timeout(20)
    pytest.fail("it did not happen")


def test_a_server_is_asked_for_the_page_alone(browser):
    asked, page = [], text_of(LOOP).html().encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab = browser.new_page()
        tab.goto(f"http://127.0.0.1:{server.server_port}/")
        tab.keyboard.press("ArrowRight")
        # Whatever might get into the page: the policy lets it neither load nor send nor run.
        blocked = tab.evaluate("""async () => {
            const seen = [];
            addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
            document.body.insertAdjacentHTML("beforeend", "<img src='/image'><p onclick='window.ran = 1' style='top: 0'>");
            document.body.lastChild.click();
            await fetch("/data").catch(() => 0);
            await new Promise((done) => setTimeout(done, 100));
            return [...new Set(seen)].sort().concat(window.ran ?? "did not run");
        }""")
        tab.close()
        server.shutdown()
    assert asked == ["/"]
    assert blocked == ["connect-src", "img-src", "script-src-attr", "style-src-attr", "did not run"]


@pytest.mark.parametrize(
    "source",
    [
        "</div></main><script>alert(1)</script><!-- &amp; &lt; <img src=x onerror=alert(1)> ${a} \\u003c ' \"\n" * 3,
        "\n\nfirst lines are empty\r\n\tand 你好 🙂 é e\u0301 שלום \u202e right to left \u2028 \0 \x1b[1m \x7f end",
        " " * 50 + "\n" * 30,
        "x" * 3000,
    ],
)
def test_the_text_is_there_to_the_letter(source, show):
    page = show(text_of(source, title=source[:50]))
    shown = source.replace("\r", "␍").replace("\0", "␀").replace("\x1b", "␛").replace("\x7f", "␡")
    assert blocks(page) == shown
    pieces = page.eval_on_selector_all(".phrase > span", "spans => spans.map(span => span.textContent)")
    assert pieces == list(shown)[: len(pieces)] and len(pieces) >= min(len(source), 600)


def test_keys_go_from_phrase_to_phrase(show):
    text = text_of(LOOP)
    phrases = text.phrases.tolist()  # position, distance, length, bits
    page = show(text)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")  # past the choice of the font
    for position, distance, length, _ in phrases[:40]:
        assert focused(page) == LOOP[position : position + length]
        bits = text.bits[position : position + length].sum()
        said = readout(page)
        assert f"at {position}" in said and abs(float(re.search(r"([\d.]+) bits", said)[1]) - bits) <= 0.051 * length
        assert f"stood {distance} before" in said if distance else "new in a window of 512" in said
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert focused(page) == LOOP[phrases[39][0] :][: phrases[39][2]]


def test_keys_go_to_the_source_and_back_and_to_loops(show):
    text = text_of(LOOP)
    ((start, length),) = [(loop["start"], loop["length"]) for loop in text.loops]
    longest = int(text.phrases["length"].argmax())
    position, distance = text.phrases[longest][["position", "distance"]]
    page = show(text)
    page.keyboard.press("l")
    at = int(np.searchsorted(text.phrases["position"], start, side="right")) - 1
    assert f"loop at {start}: period 27, {length // 27}" in readout(page)
    for _ in range(longest - at):
        page.keyboard.press("ArrowRight")
    assert f"stood {distance} before, at {position - distance}, and repeats itself" in readout(page)
    page.keyboard.press("Enter")
    before = text.phrases[np.searchsorted(text.phrases["position"], position - distance, side="right") - 1]
    assert focused(page) == LOOP[before["position"] : before["position"] + before["length"]]
    page.keyboard.press("Backspace")
    assert len(focused(page)) == text.phrases[longest]["length"]
    page.keyboard.press("Backspace")  # nowhere to go back to
    assert len(focused(page)) == text.phrases[longest]["length"]
    page.keyboard.press("Escape")
    assert readout(page) == "" and page.eval_on_selector("svg", "svg => !svg.classList.contains('on')")
    page.keyboard.press("ArrowRight")
    assert "at 0" in readout(page)


def test_every_loop_is_reached_in_turn(show):
    source = "".join(PROSE + f"{word} " * 30 + "\n" for word in ("abc", "de", "fghij", "klm"))
    text = text_of(source)
    page = show(text, height=500)
    starts = text.loops["start"].tolist()

    def press(key):
        page.keyboard.press(key)
        return int(re.search(r"loop at (\d+)", readout(page))[1])

    assert len(starts) == 4 and [press("l") for _ in range(5)] == starts + starts[:1]
    assert [press("L") for _ in range(4)] == starts[::-1]


def test_the_pointer_shows_where_a_phrase_stood(show):
    text = text_of(PROSE)
    phrase = next(p for p in text.phrases if p["length"] > 8)  # " times, it was the wo" or so, on the first line
    position, length, distance = (int(phrase[name]) for name in ("position", "length", "distance"))
    page = show(text)
    page.hover(f".phrase >> text={PROSE[position:][:length].strip()} >> nth=0", position={"x": 30, "y": 10})
    said = readout(page)
    assert said.startswith("“") and f"{length} tokens at {position}–{position + length - 1}: " in said
    assert f"stood {distance} before, at {position - distance}" in said
    rects = page.evaluate(
        """([from, to]) => {
        const boxes = [...document.querySelectorAll(".phrase > span")].slice(from, to).map((e) => e.getBoundingClientRect());
        return [boxes[0].left, boxes[0].top, boxes.at(-1).right, boxes.at(-1).bottom];
    }""",
        [position - distance, position - distance + length],
    )
    assert np.allclose(box(page, ".there"), rects, atol=5)  # without what is between the lines
    left, top, right, bottom = box(page, ".line")
    phrase_left, phrase_top = box(page, ".here")[:2]
    assert rects[0] <= left <= rects[0] + 10 and phrase_left <= right <= phrase_left + 10 and bottom <= phrase_top + 2
    page.mouse.move(5, 400)
    assert readout(page) == ""


def test_the_line_follows_when_the_page_scrolls(show):
    page = show(text_of(LOOP + PROSE * 20), height=400)
    page.keyboard.press("l")
    before = box(page, ".here")[1]
    page.mouse.move(600, 200)
    page.mouse.wheel(0, 60)
    until(page, lambda: box(page, ".here")[1] < before - 30)


def test_a_character_of_several_tokens_is_one(show):
    text = Text("🙂🙃🙂 你好你 🙂🙃".encode() * 2, lambda ids: bytes(ids).decode("utf-8", "replace"))
    page = show(text)
    pieces = page.eval_on_selector_all(".phrase > span", "spans => spans.map(span => span.textContent)")
    assert pieces == list("🙂🙃🙂 你好你 🙂🙃" * 2)
    seen = []
    for _ in range(60):  # some phrases begin within a character; the keys pass the others in order, to the end
        page.keyboard.press("ArrowRight")
        seen.append(int(re.search(r"at (\d+)", readout(page))[1]))
    assert seen == sorted(seen) and seen[-1] == seen[-2]
    page.keyboard.press("ArrowLeft")
    assert int(re.search(r"at (\d+)", readout(page))[1]) < seen[-1]
    page.hover(".phrase > span >> nth=0")
    assert readout(page).startswith("“🙂” ")


def test_loops_are_marked_beside_their_lines(show):
    page = show(text_of(LOOP))
    (label,) = page.eval_on_selector_all(".loop", "marks => marks.map(mark => mark.dataset.label)")
    assert label == "period 27 · 12 turns"
    left, top, right, bottom = box(page, ".loop")
    first, last = LOOP.index("And so"), LOOP.index("\nThen") - 1
    ends = page.evaluate(
        "at => at.map(i => document.querySelectorAll('.phrase > span')[i].getBoundingClientRect())"
        ".map(r => [r.left, r.top, r.bottom])",
        [first, last],
    )
    assert abs(top - ends[0][1]) < 2 and abs(bottom - ends[1][2]) < 2 and right < ends[0][0]
    page.click(".loop")
    assert "loop at 80" in readout(page)


LINES = """() => {
    const spans = [...document.querySelectorAll(".phrase > span")];
    const rect = (token) => [...spans[token].getClientRects()];
    return [...document.querySelectorAll(".loop")].map((mark) => {
        const { top, bottom, left } = mark.getBoundingClientRect(), { first, last } = mark.loop;
        return [first, last, top, bottom, left, rect(first)[0].top, rect(last - 1).at(-1).bottom];
    });
}"""


@pytest.mark.parametrize("mono", [False, True])
@pytest.mark.parametrize(
    "source",
    [
        "So: " + "abc " * 12 + "and " + "de " * 12 + "then" + " fgh" * 12 + " end\n" + PROSE,
        PROSE + "Wait.\n" * 12 + "So.\n" + PROSE,
        PROSE + "Wait, so.\n\n" * 8 + PROSE,
        PROSE + "And so it goes on, he said. " * 15 + "\n" + PROSE + "abc " * 20 + "\n",
        PROSE + "\n" * 30 + "end",
        PROSE + "Wait, see.\r\n" * 8 + "Well\r\n",
    ],
    ids=["three on a line", "lines", "empty lines", "wrapped", "nothing but lines", "crlf"],
)
def test_every_bar_stands_beside_its_lines(source, mono, show):
    page = show(text_of(source), height=2000)
    page.set_checked("#mono", mono)

    def settled():
        return all(abs(mark[2] - mark[5]) < 2 and abs(mark[3] - mark[6]) < 2 for mark in page.evaluate(LINES))

    until(page, settled)
    marks = page.evaluate(LINES)
    assert len(marks) == len(text_of(source).loops)
    for one, other in zip(marks, marks[1:], strict=False):  # no bar hides another
        assert other[2] >= one[3] - 2 or abs(other[4] - one[4]) >= 5
    labels = page.eval_on_selector_all(".loop:not(.mute)", "marks => marks.map(mark => mark.getBoundingClientRect().top)")
    assert all(below - above >= 20 for above, below in zip(labels, labels[1:], strict=False))


CONTRAST = """() => {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const luminance = (colour) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((byte) => byte / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const colour = (selector, name) => luminance(getComputedStyle(document.querySelector(selector))[name]);
    const page = colour("body", "backgroundColor");
    const ramp = [...document.querySelectorAll(".ramp i")].map((i) => getComputedStyle(i).backgroundColor);
    return {
        page, ink: colour("main", "color"), quiet: colour("header p", "color"), mark: colour(".loop", "backgroundColor"),
        line: colour(".line", "stroke"), levels: [page, ...ramp.slice(1).map(luminance)],
    };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(scheme, show):
    """WCAG 2: 7 for text on every tint (AAA), 4.5 for small print, 3 for marks and lines; tints in order of
    lightness, so that they are told apart without seeing hues."""
    found = show(text_of(LOOP), scheme).evaluate(CONTRAST)

    def contrast(a, b):
        return (max(a, b) + 0.05) / (min(a, b) + 0.05)

    levels = found["levels"]
    assert len(levels) == 9 and (levels == sorted(levels) if scheme == "dark" else levels == sorted(levels)[::-1])
    assert (found["page"] < 0.1) == (scheme == "dark")
    assert min(contrast(found["ink"], level) for level in levels) >= 7
    assert contrast(found["quiet"], found["page"]) >= 4.5 and contrast(found["mark"], found["page"]) >= 4.5
    assert min(contrast(found["line"], level) for level in levels) >= 2.5
    assert contrast(levels[0], levels[8]) >= 1.5 and min(map(contrast, levels, levels[1:])) > 1.02


def test_a_long_text_is_painted_where_it_is_looked_at(show):
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, 100_000), 30_000)
    ids[60_000:70_000] = np.tile(ids[:100], 100)
    text = Text(ids, lambda some: "".join(f" w{i}" for i in some), vocab_size=32_000)
    page = show(text)
    assert page.evaluate("document.querySelectorAll('*').length") < 12_000
    assert len(blocks(page)) == sum(len(f" w{i}") for i in ids.tolist())
    page.keyboard.press("l")
    assert "loop at 60,000: period 100, 100 turns" in readout(page)
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    page.wait_for_selector("main > div:last-child > .phrase", state="attached")
    assert page.evaluate("document.querySelectorAll('*').length") < 24_000
    box_ = page.locator("#map").bounding_box()
    page.mouse.click(box_["x"] + 8, box_["y"] + 0.65 * box_["height"])  # in the midst of the loop
    marks = """marks => marks.some((mark) => {
        const { top, bottom } = mark.getBoundingClientRect();
        return top < innerHeight && bottom > 0 && mark.dataset.label.startsWith("turn ");
    })"""
    until(page, lambda: page.eval_on_selector_all(".loop.on", marks))


@pytest.mark.parametrize("width", [320, 700, 1600])
def test_nothing_is_wider_than_the_window(width, show):
    page = show(text_of("x" * 500 + " " + LOOP, title="t" * 300), width=width)
    for mono in (False, True):
        page.set_checked("#mono", mono)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert box(page, ".phrase")[2] <= width


@pytest.mark.parametrize("source", ["", "a"])
def test_hardly_any_text(source, show):
    page = show(text_of(source))
    for key in ("ArrowRight", "ArrowLeft", "Enter", "Backspace", "l", "L", "Escape"):
        page.keyboard.press(key)
    page.mouse.move(300, 300)
    page.set_viewport_size({"width": 900, "height": 300})
    assert ("There is no token in it." in page.inner_text("main")) == (not source)


def test_in_the_frame_of_a_notebook(browser):
    said = []
    page = browser.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_content("<!doctype html><p>Out[1]:</p>" + text_of(LOOP + "“</iframe>” & <b>")._repr_html_())
    frame = page.frames[1]
    frame.click(".loop")
    assert "loop at 80" in frame.inner_text("output") and frame.inner_text("main").endswith("“</iframe>” & <b>")
    page.close()
    assert not said
