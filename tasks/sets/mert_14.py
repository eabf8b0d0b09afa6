"""The fourteen tasks of MARBLE's constrained track, as MERT's table prints them: the field's overall mean.

Several metrics of a task are averaged first, then the tasks, and only for a model that has all of them. MUSDB18's decibels
are in this mean beside percent, as they are in MARBLE's.
"""

from marble_bench import TaskSet

TAGGING = ("roc_auc", "ap")

SET = TaskSet(
    name="mert-14",
    title="MARBLE's constrained track: fourteen tasks on eight datasets",
    members={
        "mtt": TAGGING,
        "gs": ("weighted",),
        "gtzan": ("accuracy",),
        "gtzan-rhythm": ("f1",),
        "emo": ("r2_valence", "r2_arousal"),
        "nsynth-instrument": ("accuracy",),
        "nsynth-pitch": ("accuracy",),
        "vocalset-technique": ("accuracy",),
        "vocalset-singer": ("accuracy",),
        "mtg-instrument": TAGGING,
        "mtg-moodtheme": TAGGING,
        "mtg-genre": TAGGING,
        "mtg-top50": TAGGING,
        "musdb": ("sdr_vocals", "sdr_drums", "sdr_bass", "sdr_other"),
    },
    averaging="tasks",
    mixed_units=True,
    source="Y. Li et al., MERT (poster), Table I, for tasks and metrics; R. Yuan et al., MARBLE, NeurIPS 2023, for the mean",
    protocol="marble",
)
