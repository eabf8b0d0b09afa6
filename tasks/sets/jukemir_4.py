"""The four tasks of JukeMIR, which papers before MARBLE compare encoders on, and their mean.

The two metrics of MagnaTagATune and the two of EMO are averaged first, then the four tasks.
"""

from marble_bench import TaskSet

SET = TaskSet(
    name="jukemir-4",
    title="JukeMIR's tagging, key, genre and emotion",
    members={
        "mtt": ("roc_auc", "ap"),
        "gs": ("weighted",),
        "gtzan": ("accuracy",),
        "emo": ("r2_arousal", "r2_valence"),
    },
    averaging="tasks",
    source="R. Castellon et al., Codified Audio Language Modeling Learns Useful Representations for MIR, ISMIR 2021",
    protocol="jukemir",
)
