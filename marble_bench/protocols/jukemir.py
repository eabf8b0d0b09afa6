"""JukeMIR's grid of 216 probes a layer, its batches drawn anew and its stop after so many evaluations.

Source: R. Castellon, C. Donahue and P. Liang, Codified audio language modeling learns useful representations for music
information retrieval, ISMIR 2021, and its code.
"""

from marble_bench import Protocol

PROTOCOL = Protocol(
    name="jukemir",
    version=1,
    description="JukeMIR's grid of 216: with and without scaling, linear and MLP 512, two batch sizes, three dropouts",
    head="mlp",
    hidden=512,
    dropout=0.5,
    layer_sum=False,
    standardize=False,
    learning_rates=(1e-5, 1e-4, 1e-3),
    weight_decays=(0.0, 1e-4, 1e-3),
    seeds=1,
    standardizing=(False, True),
    hiddens=(0, 512),
    batch_sizes=(64, 256),
    dropouts=(0.25, 0.5, 0.75),
    input_dropout=True,
    validate_steps=8,
    stop_evaluations=256,
)
