"""Latents held against those that SAELens, sparsify, dictionary_learning and circuit-tracer made of
the same weights and the same activations, in files that they wrote (coders/record.py).
"""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from universal_ray.maths.latents import encode
from universal_ray.models.coder import load, shape_of
from universal_ray.models.sae import found_in
from universal_ray.storage.hub import sha256_of

CODERS = Path(__file__).parent / "coders"
PLACES = {
    "saelens": "resid_pre of layer 3", "dictionary_learning": "resid_post of layer 8",
    "sparsify": "resid_post of layer 3", "circuit_tracer": "resid_mid of layer 0",
}  # fmt: skip
NAMES = sorted(each.name for each in CODERS.iterdir() if each.is_dir() and each.name[0] != "_")


@pytest.mark.parametrize("name", NAMES)
def test_latents_are_those_of_the_library_that_wrote_the_coder(name):
    folder = CODERS / name
    recorded = load_file(folder / "recorded.safetensors")
    x_TC = recorded.pop("x")
    coders = found_in(folder)
    assert len(coders) == len(recorded)
    place = next(each for library, each in PLACES.items() if name.startswith(library))
    assert coders[0].where == {"sparsify_transcode": "mlp_in of layer 2"}.get(name, place)
    for index, coder in enumerate(coders):
        expected_TD = recorded[f"layer_{index}"]
        assert shape_of(folder, coder) == (x_TC.shape[1], expected_TD.shape[1])
        found_TD = encode(x_TC, load(folder, coder, sha256_of(folder / coder.weights)))
        assert 0.05 < (expected_TD > 0).float().mean() < 0.7
        assert ((found_TD > 0) == (expected_TD > 0)).all()
        assert (found_TD - expected_TD).abs().max() < 1e-6 * expected_TD.max()


def test_every_library_is_there():
    assert len(NAMES) == 24
    assert {name for library in PLACES for name in NAMES if name.startswith(library)} == {*NAMES}
