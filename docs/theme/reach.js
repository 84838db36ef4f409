// SPDX-License-Identifier: Apache-2.0
// What is too wide for the window scrolls by itself; with keys too, once it can be reached by them.
function reach() {
  for (const box of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
addEventListener("load", reach);
addEventListener("resize", reach);
