"""Seeing results: a viewer in the browser, served to this machine alone.

`server` answers, `security` says to whom. `results` knows what is shown; `tiles`, `layers` and
`outlines` draw it piece by piece; `objects` finds what lies where; `corrections` keeps what a
person says of it; `volumes` hands out scans. `build` makes the page of its sources in `web/`.
"""
