"""The eight tasks that the paper of MuQ compares encoders on. No mean over them is established, so there is none."""

from marble_bench import TaskSet

SET = TaskSet(
    name="muq-8",
    title="MuQ: eight clip tasks of MARBLE",
    members={
        "gtzan": ("accuracy",),
        "gs": ("weighted",),
        "emo": ("r2_valence", "r2_arousal"),
        "vocalset-singer": ("accuracy",),
        "vocalset-technique": ("accuracy",),
        "mtt": ("roc_auc", "ap"),
        "nsynth-instrument": ("accuracy",),
        "nsynth-pitch": ("accuracy",),
    },
    averaging="none",
    source="H. Zhu et al., MuQ: Self-Supervised Music Representation Learning with Mel Residual Vector Quantization, 2025",
)
