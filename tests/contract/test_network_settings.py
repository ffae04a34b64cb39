"""What decides what the networks are is marked so, in every family: it comes with weights that a run begins with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch

from tests.jobs import OWN_FAMILIES, each, variants
from trainers.families import registry
from trainers.run import open_for
from trainers.settings.config import Config


def others(config: Config, name: str) -> Iterator[Any]:
    """Other values of a setting."""
    value, annotation = getattr(config, name), type(config).model_fields[name].annotation
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            yield from get_args(part)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield from (value + 1, 2 * value, value / 2, value - 1, value + 2, value + 6, value + 0.5)
    elif isinstance(value, tuple):
        yield tuple(2 * part for part in value)


BESIDES: dict[str, list[dict[str, Any]]] = {  # settings beside which others can be tried
    "classifier": [{"model": "residual"}, {"model": "lstm_rows"}],
    "wgan": [{}, {"n_extra_layers": 0}],
    "wide_resnet": [{}, {"depth": 13, "convs_per_block": 1}],
}


@pytest.mark.parametrize("family", registry.families())
def test_every_network_setting_changes_the_networks(tmp_path: Path, family: str) -> None:
    kind, make = registry.config_class(family), registry.family_class(family)
    changing = {"image_size", "model"}  # the data and the name of the whole network

    def layers(config: Config) -> str:
        with torch.device("meta"):
            return repr(make(config.finalize(facts), facts).networks())

    for words in BESIDES.get(family, [{}]):
        config = kind.of({**next(iter(kind.tiny.values())), **words}, family)
        facts = open_for(config, tmp_path, ()).facts
        own = layers(config)
        for name in {*kind.network_settings()} - changing:
            for value in others(config, name):
                other, _ = kind.from_words({**config.model_dump(), name: value}, family)
                if other is not None and not other.validate_data(facts) and layers(other) != own:
                    changing.add(name)
    assert {*kind.network_settings()} - changing == set()


@pytest.mark.parametrize("family", registry.families())
def test_settings_from_a_stored_config_rebuild_the_networks(tmp_path: Path, family: str) -> None:
    kind, make = registry.config_class(family), registry.family_class(family)
    for words in kind.tiny.values():
        config = kind.of(words, family)
        facts = open_for(config, tmp_path, ()).facts
        stored = kind.of(json.loads(json.dumps(config.model_dump())), family)
        assert stored == config
        networks, rebuilt = (make(one.finalize(facts), facts).networks() for one in (config, stored))
        assert repr(networks) == repr(rebuilt)
        for name, network in networks.items():
            rebuilt[name].load_state_dict(network.state_dict())


@each(variants(), fast=[("dcgan", "tiny"), ("classifier", "mlp_bn")])
def test_no_other_setting_changes_the_networks(tmp_path: Path, family: str, variant: str) -> None:
    kind = registry.config_class(family, (OWN_FAMILIES,))
    config = kind.of(kind.tiny[variant], family)
    facts = open_for(config, tmp_path, (OWN_FAMILIES,)).facts
    make = registry.family_class(family, (OWN_FAMILIES,))

    def shapes(config: Config) -> list[Any]:
        with torch.device("meta"):
            networks = make(config.finalize(facts), facts).networks()
        return [(name, key, tensor.shape) for name, network in networks.items()
                for key, tensor in network.state_dict().items()]  # fmt: skip

    own, tried = shapes(config), 0
    for name in kind.model_fields.keys() - {*kind.network_settings()}:
        for value in others(config, name):
            other, _ = kind.from_words({**config.model_dump(), name: value}, family)
            if other is None or other.validate_data(facts):
                continue
            tried += 1
            assert shapes(other) == own, f"{name}={value}: say network=True of it"
    assert tried > 20
