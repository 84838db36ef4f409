# SPDX-License-Identifier: Apache-2.0
"""Lets pages link to files outside docs/: the site, which has no repository to point to, takes them in.

On GitHub and in an editor `../benchmarks/results/speed_cpu.png` is where it says. In the site pictures and results are
copied, scripts and notebooks become pages that show them, and pages that lie elsewhere are pages of the site, four of
them in `nav`.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter


ROOT = Path(__file__).parents[2]
PAGES = {
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
}
# shown on a page of their own, with the language
SCRIPTS = {".py": "python", ".yaml": "yaml"}
LINK = re.compile(r"(?<=\]\()(?!https?://)(?P<path>[^)#\s]+)(?=[#)])")

# a picture in a paragraph of its own
PICTURE = re.compile(r"(?m)^!\[[^\]]*\]\((?P<path>[^)#\s]+)\)$")
SHORT_CODE = re.compile(r"<code>(?P<text>[^<\n]{1,28})</code>")

# where each file of the repository is in the site
places: dict[Path, str] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    places.clear()
    places.update({Path(str(file.abs_src_path)).resolve(): file.src_uri for file in files if file.abs_src_path})
    pages = [Path(str(page.abs_src_path)) for page in files.documentation_pages()]
    for page in pages:
        for target in find_targets(page):
            if target not in places:
                file = bring(target, config)
                files.append(file)
                places[target] = file.src_uri
                if target.suffix == ".md":
                    # which may link to others
                    pages.append(target)
    return files


def find_targets(source: Path) -> list[Path]:
    """Files that a page links to, by its place in the repository."""
    targets = [(source.parent / match["path"]).resolve() for match in LINK.finditer(source.read_text("utf-8"))]
    return [target for target in targets if target.is_file() and target.is_relative_to(ROOT)]


def bring(target: Path, config: MkDocsConfig) -> File:
    path = target.relative_to(ROOT).as_posix()
    if target.suffix == ".ipynb":
        # pictures stay within the page
        exporter = MarkdownExporter(config={"ExtractOutputPreprocessor": {"enabled": False}})
        text, _ = exporter.from_filename(str(target))
        return File.generated(config, f"{path}.md", content=text, inclusion=InclusionLevel.NOT_IN_NAV)
    language = SCRIPTS.get(target.suffix)
    if language is None:
        return File.generated(config, path, abs_src_path=str(target), inclusion=InclusionLevel.NOT_IN_NAV)
    code = target.read_text("utf-8")
    # its words are not those of somebody who searches
    text = f"---\nhide: [toc]\nsearch: {{exclude: true}}\n---\n\n# `{path}`\n\n`````{language}\n{code}\n`````\n"
    return File.generated(config, f"{path}.md", content=text, inclusion=InclusionLevel.NOT_IN_NAV)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.abs_src_path:
        source = Path(page.file.abs_src_path)
    elif page.file.src_uri.endswith(".ipynb.md"):
        source = ROOT / page.file.src_uri.removesuffix(".md")
    else:
        return markdown

    def place(match: re.Match) -> str:
        found = places.get((source.parent / match["path"]).resolve())
        return match["path"] if found is None else posixpath.relpath(found, posixpath.dirname(page.file.src_uri))

    # on a phone a picture is opened to be read
    return PICTURE.sub(r"[\g<0>](\g<path>)", LINK.sub(place, markdown))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The theme's search has no name for people who hear the page, and `--out` would be broken behind its dashes."""
    output = SHORT_CODE.sub(r'<code class="short">\g<text></code>', output)
    return output.replace(' role="dialog"', ' role="dialog" aria-label="Search"')
