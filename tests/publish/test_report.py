"""The report: one file, with every figure, its finding as alternative text, and nothing outside."""

import base64
import re

from hybridlib.figures.results import Results
from hybridlib.publish import findings, gallery, report
from hybridlib.store.paths import PROJECT

FOLDER = PROJECT / "results" / "organism"


def test_a_report_holds_every_figure_and_needs_nothing_else(tmp_path):
    path = report.write(Results(FOLDER), tmp_path / "new" / "organism.html")
    page = path.read_text(encoding="utf-8")
    images = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)"', page)
    expected = gallery.figures(FOLDER)
    assert len(images) == len(expected) > 8
    for (alt, data), figure in zip(images, expected):
        png = FOLDER / "figures" / f"{figure.name}.png"
        assert base64.b64decode(data) == png.read_bytes(), alt
        assert len(alt) > 20 and f"<code>{figure.notebook}</code>" in page
    assert expected[0].name == "verdict_page"
    outside = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:[^"]*)"', page)
    assert outside == []


def test_a_report_says_what_the_readme_would():
    results = Results(FOLDER)
    page = report.report(results)
    for cell in re.findall(r"\| (C\d) \|", findings.findings(results)):
        assert f"<td>{cell}</td>" in page
