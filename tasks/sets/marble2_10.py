"""The ten tasks of MARBLE v2 that the card of MERT-v2 prints, with fifteen metrics and the frame accuracy of chords.

The card prints no mean, so there is none.
"""

from marble_bench import TaskSet

TAGGING = ("roc_auc", "ap")

SET = TaskSet(
    name="marble2-10",
    title="MARBLE v2: ten tasks, as the card of MERT-v2 prints them",
    members={
        "mtt": TAGGING,
        "gs": ("weighted",),
        "gtzan": ("accuracy",),
        "gtzan-rhythm": ("f1",),
        "emo": ("r2_valence", "r2_arousal"),
        "mtg-instrument": TAGGING,
        "mtg-moodtheme": TAGGING,
        "mtg-genre": TAGGING,
        "mtg-top50": TAGGING,
        "chords1217": ("chord_accuracy",),
    },
    averaging="none",
    source="m-a-p, MERT-v2-FullSong model card, section MARBLE, 2026",
    protocol="marble2",
)
