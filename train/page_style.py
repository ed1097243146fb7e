"""The style of a comparison's page, for light and dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --text: #1c1f23; --soft: #5d6670; --line: #dfe3e8; --band: #f5f7f9;
  --c0: #2a6fbb; --c1: #d9691a; --c2: #2f8f4e; --c3: #b5348a; --c4: #7a5cc9;
  --c5: #9a7b0a; --c6: #0f8b8d; --c7: #c43c3c; --c8: #6b7076; --c9: #8a4f2b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --text: #e6e9ec; --soft: #9aa4ae; --line: #333a42; --band: #1d2126;
    --c0: #6cabee; --c1: #f39a55; --c2: #66c985; --c3: #ea7cc4; --c4: #b09af2;
    --c5: #d8bb48; --c6: #4cc7c9; --c7: #f08080; --c8: #aab2ba; --c9: #cf9a77;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 38px 0 10px; }
.lead, .notes, small { color: var(--soft); }
.lead { margin: 0; max-width: 80ch; }
.notes { font-size: 13px; max-width: 88ch; margin: 10px 0 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; font-weight: 600; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; vertical-align: bottom; }
thead th { border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr:hover { background: var(--band); }
.gallery th { padding-right: 18px; line-height: 1.3; font-size: 14px; }
.gallery td { padding: 4px 0; text-align: left; }
.gallery tbody tr + tr > * { border-top: 0; }
.gallery small { font-weight: 400; }
img { display: block; image-rendering: pixelated; }
.mark { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; }
.legend { margin: 0 0 8px; padding: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 460px)); gap: 18px; }
svg { width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; font-family: inherit; }
svg .grid { stroke: var(--line); fill: none; }
svg .axis { stroke: var(--soft); fill: none; }
"""
