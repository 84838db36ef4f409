# SPDX-License-Identifier: Apache-2.0
"""A page with pictures, light or dark as the reader's screen is."""

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem;
       color: #1f2328; background: #ffffff; }
img { display: block; width: 100%; height: auto; }
figure { margin: 2.5rem 0; }
figcaption { margin-top: 0.5rem; }
@media (prefers-color-scheme: dark) { body { color: #f0f6fc; background: #0d1117; } }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% for picture in pictures %}
<figure>
<picture>
{% if picture.moves %}
<source srcset="{{ picture.name }}_dark.png"
        media="(prefers-reduced-motion: reduce) and (prefers-color-scheme: dark)">
<source srcset="{{ picture.name }}_light.png" media="(prefers-reduced-motion: reduce)">
{% endif %}
<source srcset="{{ picture.name }}_dark.{{ picture.kind }}" media="(prefers-color-scheme: dark)">
<img src="{{ picture.name }}_light.{{ picture.kind }}" alt="{{ picture.alt }}">
</picture>
<figcaption>{{ picture.caption }}</figcaption>
</figure>
{% endfor %}
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Picture:
    """A picture in a folder.

    Args:
        name: of its files, before `_light` and `_dark`.
        caption: a sentence below it.
        alt: what it shows, for who cannot see it.
        moves: whether it is an animation, beside whose .webp there is a .png of its end.
    """

    name: str
    caption: str
    alt: str
    moves: bool = False

    @property
    def kind(self) -> str:
        return "webp" if self.moves else "png"

    @property
    def files(self) -> list[str]:
        kinds = ["webp", "png"] if self.moves else ["png"]
        return [f"{self.name}_{theme}.{kind}" for kind in kinds for theme in ("light", "dark")]


def render_gallery(title: str, pictures: Sequence[Picture], notes: Sequence[str]) -> str:
    """A page of HTML for the folder of the pictures; `notes` are sentences at its end."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(PAGE).render(title=title, pictures=pictures, notes=notes)
