"""Results -> tables and plots. No measuring here; `check()` tests it."""
import html, pathlib, statistics, sys, xml.etree.ElementTree

from peers import KNOWN, OURS

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
# One plot each, of these scenarios.
PLOTS = {
    "requests": ("h1", "h2"),
    "handshakes": ("handshake-ecdsa", "handshake-rsa", "handshake-calm", "resumed"),
    "content": ("bodies", "uploads", "websocket-100", "websocket-4k"),
    "memory": ("idle",),
    "sites": ("sites", "sites-new"),
    "latency": ("p99-shared", "p99-own", "p99-new", "p99-beside"),
}
# What sluss has set itself, of the best of these: by scenario.
GOALS = {
    "h1": (0.65, ("nginx", "haproxy")),
    "h2": (0.85, ("nginx", "haproxy")),
    "handshake-ecdsa": (0.42, ("nginx",)),
    "handshake-rsa": (0.68, ("nginx",)),
    "resumed": (0.42, ("nginx",)),
    "bodies": (0.65, ("nginx",)),
    "idle": (1.0, ("nginx", "haproxy")),
    "p99-new": (1.0, tuple(KNOWN)),
    "p99-beside": (1.0, tuple(KNOWN)),
}
# In the plots' own units.
WIDTH, NAME, VALUE, BAR, GAP, TITLE = 640, 130, 110, 16, 6, 34
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 } .value, .unit { fill: #59636e }
  .bar { fill: #8c959f } .sluss { fill: #0969da } .spread { stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .value, .unit { fill: #9198a1 } .bar { fill: #6e7681 } .sluss { fill: #4493f8 } .spread { stroke: #e6edf3 }
  }"""


def title(name):
    return KNOWN[name].title if name in KNOWN else {"sluss-pgo": "sluss (PGO)"}.get(name, name)


def column(rounds, key):
    return [one[key] for one in rounds if one.get(key) is not None]


def middle(rounds, key):
    return statistics.median(values) if (values := column(rounds, key)) else None


def short(value):
    """Three digits, no more."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def medians(found):
    return {name: middle(rounds, "figure") for name, rounds in found["rows"].items()}


def unit(found):
    return found["figure"] if found["figure"] == "p99 ms" else f"{found['figure']} by {found['unit']}"


def best_of(found, peers=tuple(KNOWN)):
    """The peer with the lowest median, or None where none of them was measured."""
    figures = medians(found)
    return min((name for name in peers if figures.get(name) is not None), key=figures.get, default=None)


def ratio(found, ours, peer):
    """Sluss over a peer in the same round, the median over the rounds: what moved the machine moved both. Of the medians where
    a round of either failed; None where either is missing."""
    mine, theirs = (column(found["rows"].get(name, []), "figure") for name in (ours, peer))
    if not mine or not theirs:
        return None
    if len(mine) != len(theirs):
        return statistics.median(mine) / statistics.median(theirs)
    return statistics.median(one / other for one, other in zip(mine, theirs))


def to_the_best(found, ours="sluss"):
    return ratio(found, ours, best_of(found))


def goals(scenarios):
    """What was to be reached, and what was."""
    ours = [name for name in OURS if any(name in found["rows"] for found in scenarios.values())]
    rows = []
    for key, (most, peers) in GOALS.items():
        found = scenarios.get(key)
        best = best_of(found, peers) if found else None
        if best is None:
            continue
        reached = [ratio(found, name, best) for name in ours]
        cells = ["" if one is None else f"{one:.2f}" if one <= most else f"{one:.2f}, **not reached**" for one in reached]
        rows.append([found["title"], f"{most:.2f} of {title(best)}", *cells])
    return markdown_table(["goal", "at most", *map(title, ours)], rows)


# What stands beside the figure: heading and key.
BESIDE = (("a second", "rate"), ("CPU µs", "cpu"), ("p50 ms", "p50"), ("p99 ms", "p99"), ("p99.9 ms", "p999"), ("MiB resident", "resident"))


def detail(found):
    """Heading and rows of a scenario's table, the best first."""
    figure = {"p99 ms": "p99", "CPU µs": "cpu"}.get(found["figure"])
    beside = [(head, key) for head, key in BESIDE if key != figure and any(column(r, key) for r in found["rows"].values())]
    rows, failed = [], found.get("failed", {})
    for name, value in sorted(medians(found).items(), key=lambda one: one[1]):
        rounds = found["rows"][name]
        all_ = column(rounds, "figure")
        spread = f"{short(min(all_))} to {short(max(all_))}"
        notes = sorted({one["notes"] for one in rounds if one.get("notes")})
        notes += [f"a round failed: {failed[name]}"] if name in failed else []
        rows.append([title(name), short(value), spread, *(short(middle(rounds, key)) for _, key in beside), "; ".join(notes)])
    rows += [[title(name), "", "", *("" for _ in beside), f"failed: {why}"] for name, why in failed.items() if name not in found["rows"]]
    heads = ["", unit(found), "spread", *(head for head, _ in beside), "to note"]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return heads, rows


def text(found):
    """A scenario's table for the terminal."""
    heads, rows = detail(found)
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    lines = ["  " + "  ".join(cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths)))
             for row in [heads, *rows]]
    closing = [f"  {title(ours)}: {ratio:.2f} x the best peer" for ours in OURS if (ratio := to_the_best(found, ours))]
    return "\n".join([f"  {found['title']}", *lines, *closing])


def markdown_table(heads, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


def overview(scenarios):
    names = sorted({name for found in scenarios.values() for name in [*found["rows"], *found.get("failed", {})]}, key=[*OURS, *KNOWN].index)
    ours, rows = [name for name in OURS if name in names], []
    for found in scenarios.values():
        figures, best = medians(found), best_of(found)
        cells = [f"*{short(v)}*" if (v := figures.get(name)) is not None and name == best else
                 "failed" if v is None and name in found.get("failed", {}) else short(v) for name in names]
        ratios = [f"**{ratio:.2f}**" if (ratio := to_the_best(found, name)) else "" for name in ours]
        rows.append([f"{found['title']}: {unit(found)}", *cells, *ratios])
    return markdown_table(["", *map(title, names), *(f"{title(name)} to the best" for name in ours)], rows)


def markdown(results, folder):
    """What stands between the markers; the plots lie in `folder`."""
    machines = " and ".join(dict.fromkeys(run["machine"] for run in results["runs"]))
    used = {name: version for run in results["runs"] for name, version in run["versions"].items()}
    rounds = [max(map(len, found["rows"].values()), default=0) for found in results["scenarios"].values()]
    span = " to ".join(map(str, sorted({min(rounds, default=0), max(rounds, default=0)})))
    dates = sorted({found["date"] for found in results["scenarios"].values()})
    versions = "; ".join(f"{title(name)} {version}" for name, version in used.items())
    parts = [f"Measured on {' and '.join(dates)}: {machines}. {versions}. Medians of {span} interleaved rounds; the best peer "
             "is in italics; the last columns are sluss to that peer in the same round, their median: below 1 is ahead.",
             "\n".join(f"    {command}" for command in dict.fromkeys(run["command"] for run in results["runs"])),
             overview(results["scenarios"]), goals(results["scenarios"])]
    for plot, keys in PLOTS.items():
        if any(key in results["scenarios"] for key in keys):
            parts.append(f"![{plot}: sluss and its peers]({folder}/{plot}.svg)")
    for found in results["scenarios"].values():
        parts.append(f"<details><summary>{html.escape(found['title'])}</summary>\n\n{markdown_table(*detail(found))}\n\n</details>")
    return "\n\n".join(parts)


def panel(found, top):
    """Bars of one scenario from `top` down; its height."""
    figures = sorted(medians(found).items(), key=lambda one: one[1])
    most = max((max(column(rounds, "figure")) for rounds in found["rows"].values()), default=1) or 1
    scale = (WIDTH - NAME - VALUE) / most
    out = [f'<text class="title" x="8" y="{top + 18}">{html.escape(found["title"])}</text>',
           f'<text class="unit" x="{WIDTH - 8}" y="{top + 18}" text-anchor="end">{html.escape(unit(found))}</text>']
    y = top + TITLE
    for name, value in figures:
        all_ = column(found["rows"][name], "figure")
        low, high, middle_y = NAME + min(all_) * scale, NAME + max(all_) * scale, y + BAR / 2
        out += [f'<text x="{NAME - 8}" y="{y + 13}" text-anchor="end">{html.escape(title(name))}</text>',
                f'<rect class="{"sluss" if name in OURS else "bar"}" x="{NAME}" y="{y}" width="{max(1, value * scale):.1f}" height="{BAR}" rx="2"/>',
                f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle_y}" y2="{middle_y}"/>',
                f'<text class="value" x="{max(high, NAME + value * scale) + 6:.1f}" y="{y + 13}">{short(value)}</text>']
        y += BAR + GAP
    return out, y - top + 10


def plot(scenarios):
    """Panels below each other, each with its own scale from zero: shorter is better; the line is the spread."""
    body, top = [], 0
    for found in scenarios:
        lines, height = panel(found, top)
        body += lines
        top += height
    body.append(f'<text class="unit" x="8" y="{top + 14}">Medians; the line is the spread over the rounds. Shorter is better.</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 24}" role="img"><style>{STYLE}</style>\n'
            + "\n".join(body) + "\n</svg>\n")


def between_markers(document, content):
    begin, end = document.find(BEGIN), document.find(END)
    if begin < 0 or end < begin:
        sys.exit(f"the document lacks the lines '{BEGIN}' and '{END}', between which the tables go")
    return document[:begin] + BEGIN + "\n" + content + "\n" + document[end:]


def render(results, path):
    if not path:
        print(markdown(results, "performance"))
        return
    path = pathlib.Path(path)
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    path.write_text(between_markers(path.read_text(), markdown(results, folder.name)))
    for name, keys in PLOTS.items():
        if some := [results["scenarios"][key] for key in keys if key in results["scenarios"]]:
            (folder / f"{name}.svg").write_text(plot(some))


def check():
    """Tests tables and plots with figures that are made up."""
    def rounds(*figures):
        return [{"figure": value, "cpu": value, "rate": 1000.0, "p50": 1.0, "p99": 2.0, "p999": None, "resident": 9.9, "notes": ""}
                for value in figures]
    found = {"title": "HTTP/1.1 <1 KiB>", "unit": "request", "figure": "CPU µs", "date": "2026-01-01", "seconds": 1,
             "rows": {"nginx": rounds(20.0, 30.0, 22.0), "sluss": rounds(11.0, 10.0, 15.0), "sozu": rounds(120.0)}}
    runs = [{"machine": machine, "versions": versions, "command": "run.py"}
            for machine, versions in [("M", {"sluss": "0.1", "caddy": "2"}), ("M", {"sluss": "0.1"}), ("N", {"nginx": "1.2"})]]
    results = {"runs": runs, "scenarios": {"h1": found}}
    assert medians(found) == {"nginx": 22.0, "sluss": 11.0, "sozu": 120.0}
    assert to_the_best(found) == 0.55  # Of 0.55, 0.33 and 0.68; of the medians it would be 0.5.
    assert ratio({**found, "rows": {"sluss": rounds(1.0, 3.0), "nginx": rounds(4.0)}}, "sluss", "nginx") == 0.5
    assert to_the_best({**found, "rows": {"sluss": rounds(1.0)}}) is None
    both = {**found, "rows": {**found["rows"], "sluss-pgo": rounds(5.0, 7.5, 5.5)}}
    assert to_the_best(both) == 0.55 and to_the_best(both, "sluss-pgo") == 0.25
    assert "| 11.0 | 5.50 | *22.0* | 120 | **0.55** | **0.25** |" in overview({"h1": both})
    assert "| 0.65 of nginx (Debian) | 0.55 | 0.25 |" in goals({"h1": both})
    assert "0.55, **not reached**" in goals({"resumed": both}) and "HTTP" not in goals({"h1": {**found, "rows": {}}})
    assert [row[:3] for row in detail(found)[1]][0] == ["sluss", "11.0", "10.0 to 15.0"]
    assert "p99.9" not in text(found) and "0.55 x the best peer" in text(found)
    broken = {**found, "failed": {"caddy": "its work: not done after 75 s", "sozu": "reset"}}
    told = text(broken)
    assert "failed: its work: not done after 75 s" in told and "a round failed: reset" in told and "120" in told
    assert "| failed |" in overview({"h1": broken}) and len(plot([broken])) == len(plot([found]))
    assert "failed: reset" in text({**broken, "rows": {}}) and plot([{**broken, "rows": {}}])
    made = markdown(results, "performance")
    assert "2026-01-01: M and N. sluss 0.1; Caddy (Debian) 2; nginx (Debian) 1.2. Medians of 3 interleaved" in made
    briefer = {**results["scenarios"], "h2": {**found, "rows": {"sluss": rounds(1.0)}}}
    assert "Medians of 1 to 3 interleaved" in markdown({**results, "scenarios": briefer}, "performance")
    assert "| 11.0 | *22.0* | 120 | **0.55** |" in made and "&lt;1 KiB&gt;" in made and "(performance/requests.svg)" in made
    once = between_markers(f"before\n{BEGIN}\nold\n{END}\nafter\n", made)
    assert once == between_markers(once, made) and "old" not in once and once.startswith("before\n") and once.endswith("\nafter\n")
    root = xml.etree.ElementTree.fromstring(plot([found, found]))
    width, height = map(float, root.get("viewBox").split()[2:])
    bars = [one for one in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(bars) == 6 and [one.get("class") for one in bars].count("sluss") == 2
    for bar in bars:
        assert float(bar.get("x")) + float(bar.get("width")) <= width - VALUE and float(bar.get("y")) + BAR < height
    longest = max(bars, key=lambda one: float(one.get("width")))
    assert abs(float(bars[0].get("width")) / float(longest.get("width")) - 11 / 120) < 0.01
    print("tables and plots are well")
