"""Memory and time of reading a scan of 2 GiB slab by slab, beside nibabel reading it whole.

python benchmarks/volume_read.py WORK [--planes 2048]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import measure
import nibabel
import numpy as np
from isal import igzip

SIDE = 724
"""2048 planes of 724 x 724 voxels of 16 bits are 2 GiB."""

CODE = """
import json, sys, time
from wsiseg.machine import peak_memory
who, path = sys.argv[1:]
if who == "wsiseg":
    import numpy as np
    import wsiseg
    from isal import igzip
    before, started, checksum = peak_memory(), time.perf_counter(), 0
    with wsiseg.open_volume(path) as scan:
        volume = scan.oriented("RAS")
        step = volume.chunk[0]
        for z in range(0, volume.shape[0], step):
            box = wsiseg.Box((z, 0, 0), (min(z + step, volume.shape[0]), *volume.shape[1:]))
            checksum += int(volume.read(box).sum(dtype=np.int64))
else:
    import nibabel
    import numpy as np
    before, started = peak_memory(), time.perf_counter()
    checksum = int(np.asanyarray(nibabel.load(path).dataobj).sum(dtype=np.int64))
print(json.dumps({
    "added_mb": (peak_memory() - before) / 1e6,
    "seconds": time.perf_counter() - started,
    "checksum": checksum,
}))
"""


def make(path: Path, planes: int) -> None:
    """Write an oblique scan of smooth organs and noise, LPS, 16 bits."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((SIDE, SIDE, planes))
    affine = np.diag([-0.7, -0.7, 0.6, 1.0])
    affine[0, 1] = 0.02
    header.set_sform(affine, code=1)
    header["vox_offset"] = 352
    opener = igzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb")
    with opener as file:
        file.write(header.binaryblock + b"\0\0\0\0")
        for z in range(planes):
            organs = 300 * np.sin(9 * x + z / 60) * np.cos(7 * y - z / 90)
            plane = organs + rng.normal(0, 12, (SIDE, SIDE))
            file.write(plane.astype("<i2").tobytes())


def one_run(who: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-c", CODE, who, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--planes", type=int, default=2048)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for name in ("scan.nii.gz", "scan.nii"):
        path = args.work / name
        make(path, args.planes)
        found = {who: one_run(who, path) for who in ("wsiseg", "nibabel")}
        if len({one["checksum"] for one in found.values()}) != 1:
            raise SystemExit(f"{name}: the readers differ")
        for who, one in found.items():
            rows.append(
                {
                    "file": name,
                    "voxels, MiB": args.planes * SIDE * SIDE * 2 >> 20,
                    "on disk, MiB": path.stat().st_size >> 20,
                    "who": who if who == "wsiseg" else "nibabel, whole",
                    "added MB": round(one["added_mb"]),
                    "seconds": round(one["seconds"], 1),
                }
            )
            print(rows[-1])
        path.unlink()
    print(measure.save("scan-read", {"rows": rows}))


if __name__ == "__main__":
    main()
