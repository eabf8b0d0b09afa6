"""What decides the numbers of a run: its key, what its kept probes are known by, and what a record says of both."""

from __future__ import annotations

from typing import Any

from marble_bench.core import keys
from marble_bench.core.keys import PIPELINE, RunKey
from marble_bench.core.sources import digest_machinery, list_run_origins
from marble_bench.features import fingerprint
from marble_bench.runs.config import RunConfig
from marble_bench.runs.inputs import Inputs


def run_key(inputs: Inputs, config: RunConfig, variant: str = "") -> RunKey:
    """The key of a run. variant: what sets it apart from the full run."""
    origins = list_run_origins(config.data.named, config.features.encoder, config.probes.protocol)
    return RunKey(
        features=[store.key for store in inputs.source.stores] or [inputs.source.model["weights_sha256"]],
        layers=inputs.features.names,
        summable=inputs.summable,
        corpus=inputs.examples.fingerprint(),
        spans=keys.digest_spans(inputs.examples.clips),
        task=keys.hash_task(config.data.named),
        sources=keys.group_by_kind(each for each in origins if each.kind != "encoder"),  # that is in the features' keys
        seeds=config.probes.seeds,
        variant=variant,
    )


def list_probe_cache_facts(inputs: Inputs, config: RunConfig, rules: dict[str, Any] | None = None) -> dict[str, Any]:
    """The facts that identify kept probes. rules: how they are trained, where that is not in the run's key.

    Beside the run's key these are the kind of device, the code of the suite, and when the features were made: features
    that were set aside have the key of those that came after them.
    """
    changed = config.probes.variants.list_training_facts()
    return run_key(inputs, config).list_probe_facts(
        device=config.probes.device.partition(":")[0],
        code=digest_machinery(),
        made=[fingerprint.read_date(store.folder) for store in inputs.source.stores],
        rules=rules or {},
        **({"variants": changed} if changed else {}),
    )


def record_facts(inputs: Inputs, config: RunConfig, variant: str) -> dict[str, Any]:
    """What a record says of its identity."""
    key = run_key(inputs, config, variant)
    features = key.features[0] if len(key.features) == 1 else keys.digest(list(key.features))
    origins = list_run_origins(config.data.named, config.features.encoder, config.probes.protocol)
    return {
        "features": f"sha256:{features}",
        "run": f"sha256:{key.digest}",
        "pipeline": PIPELINE,
        "sources": [
            {"kind": o.kind, "name": o.name, "version": o.version, "digest": o.digest, "shipped": o.shipped}
            for o in origins
        ],
    }
