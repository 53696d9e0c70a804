"""The page to explore attention: what it holds, what it refuses, and how it answers a person."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from keras_transformer.visualization import explore_attention

SOURCE, TARGET = ["the", "cat", "sat", "</s>"], ["<s>", "le", "chat"]
HOSTILE = ["</script><b>", "<!--", "\"'&amp;", "שלום", "قطة", "猫", "\ud800", "", "{{data}}"]
GENERATOR = np.random.default_rng(0)
ENCODER = GENERATOR.dirichlet(np.ones(4), (2, 3, 4))  # [L, N, T, S]
CAUSAL = GENERATOR.dirichlet(np.ones(3), (2, 3, 3))
CROSS = GENERATOR.dirichlet(np.ones(4), (2, 3, 3))
HALF_A_PART = 0.5 / 4095 + 1e-9
BROWSER = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), ""
)
needs_browser = pytest.mark.skipif(
    not BROWSER, reason="no browser on this machine; Debian: apt install chromium"
)


def explorer():
    return explore_attention(SOURCE, TARGET, encoder=ENCODER, causal=CAUSAL, cross=CROSS)


def page_of(explorer, folder):
    explorer.save(folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


class Scripts(HTMLParser):
    """The contents of all script elements, as a browser finds them."""

    def __init__(self, page):
        super().__init__()
        self.found, self.others = [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.others.add(tag)
        if tag == "script":
            self.found.append("")

    def handle_data(self, data):
        if self.lasttag == "script":
            self.found[-1] += data


def data_of(page):
    data, program = Scripts(page).found
    assert "JSON.parse" in program
    return json.loads(data)


def numbers_of(data, kind):
    digits = {letter: value for value, letter in enumerate(data["digits"])}
    text = kind["weights"]
    parts = [64 * digits[a] + digits[b] for a, b in zip(text[::2], text[1::2], strict=True)]
    return np.reshape(parts, (kind["layers"], kind["heads"], len(kind["left"]), -1)) / 4095


def test_the_page_holds_the_given_numbers_and_tokens(tmp_path):
    data = data_of(page_of(explorer(), tmp_path))
    given = {"encoder": ENCODER, "causal": CAUSAL, "cross": CROSS}
    assert [kind["name"] for kind in data["kinds"]] == list(given)
    for kind in data["kinds"]:
        np.testing.assert_allclose(
            numbers_of(data, kind), given[kind["name"]], rtol=0, atol=HALF_A_PART
        )
    sides = [(kind["left"], kind["right"]) for kind in data["kinds"]]
    assert sides == [(SOURCE, SOURCE), (TARGET, TARGET), (TARGET, SOURCE)]


@pytest.mark.parametrize("weights", [ENCODER[0], ENCODER[0, 0]])
def test_weights_may_lack_layers_and_heads(weights, tmp_path):
    data = data_of(page_of(explore_attention(SOURCE, encoder=weights), tmp_path))
    found = numbers_of(data, data["kinds"][0])
    assert found.shape == (1,) * (4 - weights.ndim) + weights.shape
    np.testing.assert_allclose(np.squeeze(found), weights, rtol=0, atol=HALF_A_PART)


def test_no_token_and_no_title_escapes_from_the_data(tmp_path):
    weights = np.full((len(HOSTILE), len(HOSTILE)), 1 / len(HOSTILE))
    plain = page_of(explorer(), tmp_path)
    page = page_of(explore_attention(HOSTILE, encoder=weights, title="</title><b>&"), tmp_path)
    assert Scripts(page).others == Scripts(plain).others
    data = data_of(page)
    assert data["title"] == "</title><b>&"
    labels = data["kinds"][0]["left"]
    assert labels == [*HOSTILE[:6], r"\ud800", "(empty)", "{{data}}"]


def test_the_page_loads_nothing(tmp_path):
    page = page_of(explorer(), tmp_path)
    assert "default-src 'none'" in page
    names = {"http://www.w3.org/2000/svg"}  # of a namespace: nothing is loaded from there
    assert set(re.findall(r"\w+://[^\"']+", page)) == names
    assert not re.findall(r"\bsrc=|\bhref=|@import|url\(|fetch\(", page)


def test_a_large_model_stays_below_a_megabyte(tmp_path):
    tokens = [f"token{index}" for index in range(60)]
    weights = GENERATOR.dirichlet(np.ones(60), (6, 8, 60)).astype("float32")
    assert len(page_of(explore_attention(tokens, encoder=weights), tmp_path)) < 500_000
    both = explore_attention(tokens, tokens, encoder=weights, cross=weights)
    assert len(both._repr_html_()) < 1_000_000


def test_a_notebook_gets_the_same_page_in_a_frame_of_its_own(tmp_path):
    shown = explorer()
    (frame,) = re.findall(
        r'^<iframe [^>]*sandbox="allow-scripts"[^>]*></iframe>$', shown._repr_html_()
    )
    (inside,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(inside) == page_of(shown, tmp_path)
    assert repr(shown).startswith("AttentionExplorer(encoder: 2 layers, 3 heads, 4 x 4 tokens; ")


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    explore_attention(SOURCE, encoder=ENCODER).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no room")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no room"):
        explorer().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "One of encoder, causal and cross must be given"),
        ({"encoder": ENCODER}, r"encoder must have a row for each of source.*source_tokens=None"),
        ({"causal": CAUSAL, "source_tokens": SOURCE}, "target_tokens and a .*target_tokens=None"),
        (
            {"cross": CROSS, "source_tokens": SOURCE[:2], "target_tokens": TARGET},
            r"Cut padding off.*cross of shape \(2, 3, 3, 4\), 2 source_tokens",
        ),
        (
            {"cross": CROSS, "source_tokens": SOURCE, "target_tokens": SOURCE},
            "each of target_tokens and a column for each of source_tokens.* 4 target_tokens",
        ),
        ({"encoder": ENCODER[None], "source_tokens": SOURCE}, r"encoder\[0\].*\(1, 2, 3, 4, 4\)"),
        (
            {"encoder": -ENCODER, "source_tokens": SOURCE},
            "encoder must be .* from 0 to 1.*: a weight of -",
        ),
        (
            {"encoder": 9 * ENCODER, "source_tokens": SOURCE},
            "behind the softmax.*: a weight of [2-9]",
        ),
        ({"encoder": ENCODER * np.nan, "source_tokens": SOURCE}, "encoder must be finite"),
        ({"encoder": [["a"]], "source_tokens": ["a"]}, "encoder must be numbers"),
        ({"encoder": [[1.0]], "source_tokens": "a"}, "source_tokens must be a list"),
        (
            {"encoder": [[1.0]], "source_tokens": ["a"], "target_tokens": [7]},
            r"target_tokens\[0\]=7",
        ),
    ],
)
def test_what_cannot_be_explored_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        explore_attention(**arguments)


# What stands on the page after each thing a person does: the script below writes it down.
PERSON = """
const steps = [];
function note() {
  const numbers = (side) => [...document.querySelectorAll(`#${side} li`)]
    .map((item) => item.lastChild.textContent).filter((text) => text !== "").map(Number);
  const map = document.querySelector("#map");
  const pixels = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
  steps.push({
    left: numbers("left"), right: numbers("right"),
    shown: document.querySelector("li.shown bdi").textContent,
    chosen: document.querySelector("li[aria-selected=true] bdi").textContent,
    readout: document.querySelector("#readout").textContent,
    lines: document.querySelectorAll("#lines path").length,
    map: [...pixels].filter((_, i) => i % 4 === 3),
  });
}
const token = (side, index) => document.querySelectorAll(`#${side} li`)[index];
const press = (key) =>
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const over = (name, target) =>
  target.dispatchEvent(new PointerEvent(name, { bubbles: name === "pointerover" }));
note();
document.querySelector("input[name=head][value='-1']").click(); note();
document.querySelector("input[name=layer][value='0']").click(); note();
over("pointerover", token("right", 3).firstChild); note();
over("pointerleave", document.querySelector("#right ol")); note();
token("left", 0).focus(); press("ArrowDown"); note();
press("ArrowRight"); note();
document.querySelector("input[name=kind][value='0']").click(); note();
token("left", 3).click(); note();
"""
REPORT = """
const report = document.createElement("pre");
report.id = "report";
report.textContent = JSON.stringify(steps);
document.body.append(report);
"""


def dom_of(page, folder, hash=""):
    """The page as headless Chromium has it once its scripts have run."""
    path = folder / "opened.html"
    path.write_text(page, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
        path.as_uri() + hash,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=100, check=True)
    return done.stdout.decode("utf-8")


@needs_browser
def test_a_person_chooses_hovers_and_uses_the_keyboard(tmp_path):
    page = page_of(explorer(), tmp_path)
    page = page.replace("</body>", f"<script>{PERSON}{REPORT}</script></body>")
    dom = dom_of(page, tmp_path, "#kind=cross&layer=1&head=2&token=1")
    (report,) = re.findall(r'<pre id="report">(.*?)</pre>', dom, re.DOTALL)
    steps = json.loads(html.unescape(report))
    mean = CROSS.mean(axis=1)
    expected = [  # which map, the token that is shown, and its side
        (CROSS[1, 2], "left", 1),  # as the address says
        (mean[1], "left", 1),  # of all heads
        (mean[0], "left", 1),  # of another layer
        (mean[0], "right", 3),  # the mouse is over a source token
        (mean[0], "left", 1),  # and leaves it
        (mean[0], "left", 1),  # the keyboard: from the first token to the next
        (mean[0], "right", 1),  # and to the other side
        (ENCODER.mean(axis=1)[0], "right", 1),  # another kind
        (ENCODER.mean(axis=1)[0], "left", 3),  # and a click
    ]
    assert len(steps) == len(expected)
    for step, (weights, side, index) in zip(steps, expected, strict=True):
        looks = side == "left"
        names = TARGET if looks and len(weights) == 3 else SOURCE
        row = weights[index] if looks else weights[:, index]
        assert step["shown"] == names[index]
        assert step["left" if looks else "right"] == []
        np.testing.assert_allclose(step["right" if looks else "left"], row, atol=6.3e-4, rtol=0)
        assert step["lines"] == np.sum(row >= 0.005)
        begins = f"{names[index]}{index} {'looks at' if looks else 'is looked at by'} "
        assert step["readout"].startswith(begins)
        assert step["readout"].endswith(f"{np.min(row):.3f}")
        np.testing.assert_allclose(step["map"], 255 * np.sqrt(weights.reshape(-1)), atol=2)
    assert steps[3]["chosen"] == TARGET[1], "hovering chooses nothing"


@needs_browser
def test_hostile_tokens_are_shown_as_they_are(tmp_path):
    weights = np.full((len(HOSTILE), len(HOSTILE)), 1 / len(HOSTILE))
    dom = dom_of(page_of(explore_attention(HOSTILE, encoder=weights), tmp_path), tmp_path)
    shown = re.findall(r'<li [^>]*><bdi title="[^"]*">(.*?)</bdi>', dom)
    labels = [*HOSTILE[:6], r"\ud800", "(empty)", "{{data}}"]
    assert list(map(html.unescape, shown)) == [*labels, *labels]


@needs_browser
def test_several_stand_in_one_notebook_and_do_not_meet(tmp_path):
    tell = "<script>parent.postMessage(find('#readout').textContent, '*')</script></body>"
    frames = [
        explore_attention(names, encoder=np.eye(2))._repr_html_()
        for names in (["one", "two"], ["drei", "vier"])
    ]
    told = [frame.replace(html.escape("</body>"), html.escape(tell)) for frame in frames]
    listen = "<script>addEventListener('message', (e) => document.body.append(`[${e.data}]`))"
    style = "<style>li, h2 { display: none } * { color: red }</style>"
    notebook = f"<!doctype html><body>{style}{listen}</script>{''.join(told)}</body>"
    dom = dom_of(notebook, tmp_path)
    heard = set(re.findall(r"\[(\w+ looks at [^\]]*)\]", dom))
    assert heard == {
        "one0 looks at one0 1.000, two1 0.000",
        "drei0 looks at drei0 1.000, vier1 0.000",
    }
