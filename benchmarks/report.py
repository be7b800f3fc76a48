"""Tables of `benchmarks/README.md` from the results: `python benchmarks/report.py [--check]`.

Each `<!-- table NAME -->` in the README is followed by what the results of that name say; text
outside stays. `--check` changes nothing and fails where the README is out of date.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
RESULTS = HERE / "results"
START, END = "<!-- table {name} -->", "<!-- end -->"

Record = dict[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return lines + [f"| {' | '.join(map(_cell, row))} |" for row in rows]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


def footnote(record: Record) -> list[str]:
    """Return where, when and with what a result was measured."""
    machine, versions = record["machine"], record["versions"]
    load = f", load before {record['load_before']}" if "load_before" in record else ""
    load += ", scheduled ahead of other programs" if machine.get("ahead_of_others") else ""
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        "",
        f"`{record['command']}`; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['ram_gb']} GB{load}; {record['date'][:10]}, commit {record['commit']}; {used}.",
        "",
    ]


def end_to_end(record: Record) -> list[str]:
    slide = record["slide"]
    ours = next((row for row in record["rows"] if row["who"] == "wsiseg"), {})
    rows = []
    for row in record["rows"]:
        name = row["who"]
        version = record["peer_versions"].get(name, record["versions"]).get(name, "")
        if "failure" in row:
            rows.append([f"{name} {version}", "failed", "", "", "", "", "", ""])
            continue
        compared = ("wall_s", "ms_per_tile")
        times = [row[key] / ours[key] if ours.get(key) else "" for key in compared]
        sizes = [row[key] for key in ("wall_s", "cpu_s", "peak_mb", "tiles", "ms_per_tile")]
        rows.append([f"{name} {version}", *sizes, *times])
    header = ["who", "wall s", "CPU s", "peak MB", "tiles", "ms per tile"]
    header += ["wall, times ours", "per tile, times ours"]
    title = f"{slide['name']}, {slide['width']:,} x {slide['height']:,} at {slide['mpp']} µm"
    return [f"**{record['network']}**, {title}", "", *table(header, rows), *_parts(record)]


def _parts(record: Record) -> list[str]:
    found = record.get("breakdown")
    if found is None:
        return []
    return [
        "",
        f"wsiseg from first read to last pixel: {found['steady_s']} s ({found['tiles_per_s']} "
        f"tiles/s). Its parts alone: reading {found['read_alone_cpu_s']} s CPU, network "
        f"{found['network_alone_cpu_s']} s CPU; on {found['cores']} cores at best "
        f"{found['ideal_s']} s, of which the pipeline reaches {found['ideal_share']:.0%}.",
    ]


def cascade(record: Record) -> list[str]:
    slide = record["slide"]
    keys = ("wall_s", "cpu_s", "peak_mb", "tissue_mm2", "s_per_mm2", "published_s")
    header = ["slide", "wall s", "CPU s", "peak MB", "tissue mm²", "s per mm²", "published s"]
    row = [slide["name"], *(record[key] for key in keys)]
    if "amplification" in record:
        header, row = [*header, "times decoded"], [*row, record["amplification"]]
    return table(header, [row])


def trace(record: Record) -> list[str]:
    keys = ("way", "seconds", "cpu_s", "polygons", "area_ratio", "invalid")
    rows = [
        [f"{row[k]:.4f}" if k == "area_ratio" else row[k] for k in keys] for row in record["rows"]
    ]
    header = ["way", "seconds", "CPU s", "polygons", "area / pixels", "invalid"]
    size = " x ".join(f"{n:,}" for n in record["shape"])
    return [
        f"{size} pixels, three classes; {record['ratio']} times as fast (CPU seconds)",
        "",
        *table(header, rows),
    ]


def geojson(record: Record) -> list[str]:
    keys = ("phase", "seconds", "cpu_s", "peak_mb")
    rows = [[row[key] for key in keys] for row in record["phases"]]
    total = ["write and verify", record["seconds"], record["cpu_s"], record["peak_mb"]]
    verdict = ", ".join(record["verdicts"])
    return [
        f"{record['written']:,} objects of {record['vertices']} vertices, "
        f"{record['coordinates']}, {record['mb']} MB in {record['files']} files, all {verdict}",
        "",
        *table(["phase", "seconds", "CPU s", "peak MB"], [*rows, total]),
    ]


def export(record: Record) -> list[str]:
    keys = ("export", "objects", "seconds", "cpu_s", "peak_mb", "files", "largest_mb")
    header = ["export", "objects", "seconds", "CPU s", "peak MB", "files", "largest, MB"]
    verdicts = {verdict for row in record["exports"] for verdict in row.get("verdicts", ())}
    return [
        f"Each GeoJSON file verified by itself: {', '.join(sorted(verdicts))}",
        "",
        *table(header, [[row[key] for key in keys] for row in record["exports"]]),
    ]


def _engines(rows: Sequence[Record], first: Sequence[object], versions: Record) -> list[list[Any]]:
    """Return a row per engine: seconds, memory, and wsiseg's share of each."""
    ours = next(row for row in rows if row["who"] == "wsiseg")
    return [
        [
            *first,
            f"{row['who']} {versions.get(row['who'].split('-')[0], '')}".strip(),
            round(row["cpu_s"], 2),
            row["added_mb"],
            round(ours["cpu_s"] / row["cpu_s"], 2),
            round(ours["added_mb"] / row["added_mb"], 3),
        ]
        for row in rows
    ]


ENGINES = ("who", "CPU s", "added MB", "CPU s of wsiseg / its", "MB of wsiseg / its")


def _by_classes(record: Record) -> list[str]:
    versions = record["versions"] | record["peer_versions"]
    rows = [
        row for one in record["found"] for row in _engines(one["rows"], [one["classes"]], versions)
    ]
    return ["", *table(["classes", *ENGINES], rows)]


def _one_network(record: Record) -> list[str]:
    versions = record["versions"] | record["peer_versions"]
    return ["", *table(ENGINES, _engines(record["found"], [], versions))]


def _peaks(record: Record) -> list[str]:
    keys = ("classes", "planes", "added_mb", "formula_mb")
    rows = [
        [*(row[key] for key in keys), round(row["added_mb"] / row["formula_mb"], 2)]
        for row in record["found"]
    ]
    header = ["classes", "planes of the scan", "added MB", "formula, MB", "ratio"]
    return ["", *table(header, rows)]


def _skip(record: Record) -> list[str]:
    return ["", *table(["", ""], [[key, value] for key, value in record["found"].items()])]


def sampler(record: Record) -> list[str]:
    speed = record["patches_per_s"]
    rows = [[name, ratio] for name, ratio in record["ratio"].items()]
    return [
        f"{record['patches']:,} patches, {record['threads']} threads: wsiseg {speed['wsiseg']} per "
        f"second with labels, OpenSlide {speed['openslide']}; blocks that were read before are "
        "kept in memory",
        "",
        *table(["time of", "OpenSlide / wsiseg"], rows),
    ]


def windows(record: Record) -> list[str]:
    sizes, times = record["card"], record["ratio"]
    rows = [list(row.values()) for row in record["rows"]]
    return [
        f"{record['slide']['name']}, patch {sizes['patch']}, halo {sizes['halo']}, windows up to "
        f"{sizes['max_patch']} px: patches see {times['million px']} times the pixels and take "
        f"{times['network s']} times the seconds in the network, {times['cpu_s']} times the CPU "
        f"time and {times['wall_s']} times the time of the whole command. Codes of the heatmaps "
        f"differ by {record['largest_change_of_a_code']} at most, in "
        f"{record['share_of_codes_changed']:.2g} of the pixels.",
        "",
        *table(list(record["rows"][0]), rows),
    ]


def ablation(record: Record) -> list[str]:
    """Return the means of each design, and its Dice for each region it was trained on."""
    means, rows = record["means"], record["rows"]
    regions = sorted({row["trained_on"] for row in rows})
    header = ["design", "recall", "precision", "dice", "dice_sd", "seeds"]
    lines = []
    for row in means:
        own = [
            [
                one["dice"]
                for one in rows
                if (one["design"], one["trained_on"]) == (row["design"], r)
            ]
            for r in regions
        ]
        cells = [row[key] if row[key] is not None else "" for key in header]
        lines.append([*cells, *(round(statistics.mean(values), 4) for values in own)])
    return table([*header, *(f"dice, learned {r}" for r in regions)], lines)


def plain(record: Record) -> list[str]:
    """Return the rows as they are."""
    rows = record.get("rows", [])
    header = list(rows[0]) if rows else []
    return table(header, [[row.get(key, "") for key in header] for row in rows]) if rows else []


def viewer(record: Record) -> list[str]:
    text = (
        f"{record['slide']}, {record['objects']:,} objects: link after {record['link_s']} s, first "
        f"tile {record['first_tile_s']} s later; objects there after "
        f"{record['objects_s']} s, at the next start after {record['objects_again_s']} s"
    )
    return [text, "", *plain(record)]


SECTIONS: Mapping[str, Callable[[Record], list[str]]] = {
    "end_to_end": end_to_end,
    "cascade": cascade,
    "trace": trace,
    "geojson": geojson,
    "export": export,
    "sampler": sampler,
    "windows": windows,
    "viewer": viewer,
    "ablation": ablation,
    "volume-overhead": _by_classes,
    "volume-export": _by_classes,
    "volume-unet": _one_network,
    "volume-many": _one_network,
    "volume-peak": _peaks,
    "volume-skip": _skip,
    "volume-focus": _skip,
}


def section(name: str) -> str:
    lines: list[str] = []
    for path in sorted(RESULTS.glob(f"{name}*.json")):
        if path.stem.endswith("-trial"):
            continue
        record = json.loads(path.read_text())
        lines += [*SECTIONS.get(name, plain)(record), *footnote(record)]
    return "\n".join(lines or ["", "not measured yet", ""])


def fill(text: str) -> str:
    """Return the README with every table replaced."""
    pieces = text.split("<!-- table ")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition(" -->")
        _, _, after = rest.partition(END)
        filled.append(f"{START.format(name=name)}\n{section(name).strip()}\n{END}{after}")
    return "".join(filled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = README.read_text()
    filled = fill(text)
    if args.check and filled != text:
        raise SystemExit(f"{README}: out of date; run python benchmarks/report.py")
    README.write_text(filled)


if __name__ == "__main__":
    main()
