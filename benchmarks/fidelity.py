"""Compare the arithmetic of ``fd.scenes`` and ``kd`` with torch-fidelity's, on the same features.

    pip install torch-fidelity
    python benchmarks/fidelity.py --out benchmarks/results/fidelity.json

The features are EfficientNet-Lite0's, which the scores use, of real digits at 128 pixels: those below 5 against the
others, 2,500 of each, more than the 1,280 numbers of a feature.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch_fidelity import KEY_METRIC_FID, KEY_METRIC_KID_MEAN
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from diffuscope.bench import report
from diffuscope.data.digits import load_digits
from diffuscope.evaluate.frechet import frechet_distance
from diffuscope.evaluate.scenes import Reference, kernel_distance
from diffuscope.vision.feature_net import load_efficientnet
from diffuscope.weights.store import documents


def main(*, out: Path) -> None:
    """Measure each distance in both programs.

    Args:
        out: JSON file to write.
    """
    digits, net = load_digits(), load_efficientnet()
    with torch.inference_mode():
        parts = [
            net.features(F.interpolate(part, size=128, mode="bilinear").expand(-1, 3, -1, -1)).pooled
            for part in digits.pixels.split(50)
        ]
    features = torch.cat(parts).double()
    one, two = features[digits.labels < 5], features[digits.labels >= 5]
    statistics = [fid_features_to_statistics(each) for each in (one, two)]
    frechet = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    settings = {"kid_subsets": 1, "kid_subset_size": len(one), "kid_kernel": "poly", "kid_kernel_poly_degree": 3}
    kernel = kid_features_to_metric(one, two, **settings, verbose=False)[KEY_METRIC_KID_MEAN]
    found = {
        "fd.scenes": [Reference(two).distance(one), frechet],
        "frechet_distance": [frechet_distance(one, two), frechet],
        "kd": [kernel_distance(one, two), kernel],
    }
    rows = {name: {"ours": a, "torch-fidelity": b, "relative": abs(a / b - 1)} for name, (a, b) in found.items()}
    record = {"command": report.this_command(), "torch-fidelity": version("torch-fidelity"), "features": [*one.shape]}
    documents.write_text(out, json.dumps(record | {"distances": rows}, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
