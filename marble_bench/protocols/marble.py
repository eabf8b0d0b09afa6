"""MARBLE's constrained track: the grid that its published numbers are compared under.

Source: R. Yuan et al., MARBLE: Music Audio Representation Benchmark for Universal Evaluation, NeurIPS 2023, and its code.
Patience and the limit of epochs belong to the task.
"""

from marble_bench import Protocol

PROTOCOL = Protocol(
    name="marble",
    version=1,
    description="MARBLE's constrained track: MLP 512 on each layer and on their weighted sum, six learning rates",
    head="mlp",
    hidden=512,
    dropout=0.2,
    layer_sum=True,
    standardize=False,
    learning_rates=(5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2),
)
