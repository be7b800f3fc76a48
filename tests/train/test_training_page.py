"""The examples of docs/training.md are what the program takes."""

import json
import re
from pathlib import Path

import pytest

from wsiseg.testing.slides import make_svs, tissue_disc
from wsiseg.train.config import read_config

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dataset, config = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "dataset.toml").write_text(dataset, encoding="utf-8")
    (tmp_path / "config.toml").write_text(config, encoding="utf-8")
    make_svs(tmp_path / "a.svs", tissue_disc((512, 512))[0], mpp=0.5)
    square = {"type": "Polygon", "coordinates": [[[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]]}
    features = [
        {
            "type": "Feature",
            "geometry": square,
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name in ("Region*", "Tumour, invasive")
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (tmp_path / "a.geojson").write_text(text)
    return tmp_path


def test_the_configuration_of_the_page_is_read(folder: Path):
    config = read_config(folder / "config.toml")
    assert [stage.name for stage in config.card.stages] == ["patches", "refine"]
    assert config.recipes["patches"].fit.rounds == 40
    assert config.recipes["patches"].sampling.levels == ("grade", "slide", "class")
    assert config.dataset.classes == ("background", "Tumor")
