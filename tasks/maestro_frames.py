"""Which keys of a piano sound, and when is each struck?

Sources: MAESTRO 3.0.0 with its own split; MARBLE's first code. Conventions: 88 pitches, MIDI 21 to 108; a note sounds until
its key is released, and while the pedal is down until that is (see `tasks/corpora/midi.py`). All layers are averaged to 50
frames a second; encoders hear 10 s at once. A frame has the notes that its middle is in. A probe has two outputs for each
pitch, that it sounds and that it is struck; the second is learnt in the frame of an onset and both neighbours. One
threshold, which validation chooses by frames, finds both. The main score is F over the (frame, pitch) pairs of all pieces;
the other is F of onsets at 50 ms, piece by piece.

Departures: MARBLE used version 2.0.0, 75 frames a second, overlapping windows, a threshold of 0.5, and scored frames alone.
Probes are trained on one crop of 10 s from each piece in an epoch, as in all tasks of frames.

The corpus is large: a layer of 768 numbers takes 55 GB; choose some with --layers.
"""

from __future__ import annotations

from marble_bench import Frames, Schedule, Task
from marble_bench.metrics import transcription_metrics
from marble_bench.metrics.transcription import FRAMES_HZ, NOTES, ONSETS
from marble_bench.scoring import note_decoder

from .corpora.maestro import MAESTRO, clips
from .corpora.midi import shift

TASK = Task(
    title="keys of a piano that sound",
    corpus=MAESTRO,
    target=Frames(
        (NOTES, ONSETS),
        rate_hz=FRAMES_HZ,
        decode=note_decoder.find,
        settings=note_decoder.THRESHOLDS,
        feature_rate_hz=FRAMES_HZ,
        context_s=10.0,
    ),
    clips=clips,
    metrics=transcription_metrics,
    counts={"train": 962, "valid": 137, "test": 177},
    schedule=Schedule(max_epochs=50, lr_patience=2, stop_patience=5),
    mini_schedule=Schedule(max_epochs=20, lr_patience=2, stop_patience=5),
    shifted=shift,
)
