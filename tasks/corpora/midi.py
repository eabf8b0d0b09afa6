"""The notes of a piano in a MIDI file, as they sound: until the key is released, and while the pedal is down until that is.

The sustain pedal (controller 64) is down from the value 64 on. A note whose key is released while it is down sounds until
the pedal is released, until the same key is struck again, or until the file ends. MARBLE's first code and HEAR extend notes
so too. The other pedals are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.errors import DataError
from marble_bench.files.tables import fault
from marble_bench.metrics.transcription import PITCHES

if TYPE_CHECKING:
    import mido

SUSTAIN, DOWN = 64, 64  # the controller, and from which value on the pedal is down
MOST_BYTES = 64 << 20
Note = tuple[float, float, str]  # start_s, end_s, MIDI number


def read_notes(path: Path) -> tuple[Note, ...]:
    """The notes by their start, and of those that start together by pitch.

    Raises DataError naming the file for what is no MIDI file of one piece, and for notes that no piano has.
    """
    keyboard = Keyboard()
    end_s = 0.0
    for end_s, message in _list_messages(path):
        keyboard.take(end_s, message)
    keyboard.end(end_s)
    strange = sorted({pitch for _, _, pitch in keyboard.notes if str(pitch) not in PITCHES})
    if strange:
        raise fault(path, f"has the note {strange[0]}, and a piano has {PITCHES[0]} to {PITCHES[-1]}: is it a piano's?")
    if not keyboard.notes:
        raise fault(path, "has no note: it is damaged, or another file; get it again")
    ordered = sorted((start, pitch, end) for start, end, pitch in keyboard.notes)
    return tuple((start, end, str(pitch)) for start, pitch, end in ordered)


def shift(target: tuple[Any, Any], semitones: int) -> tuple[Any, Any] | None:
    """The notes of both parts, moved; None where one leaves the piano."""
    notes = tuple((start, end, str(int(pitch) + semitones)) for start, end, pitch in target[0])
    return (notes, notes) if all(pitch in PITCHES for _, _, pitch in notes) else None


def _list_messages(path: Path) -> Iterator[tuple[float, Any]]:
    """(time_s, message) of all tracks together, by time. Raises DataError for what cannot be read."""
    import mido

    try:
        if path.stat().st_size > MOST_BYTES:
            raise fault(path, f"has {path.stat().st_size:,} bytes, too many for a MIDI file (at most {MOST_BYTES:,})")
        file = mido.MidiFile(path)
        if file.type == 2 or not file.ticks_per_beat or file.ticks_per_beat < 0:
            raise fault(
                path, f"is a MIDI file of type {file.type} with {file.ticks_per_beat} ticks a beat: not read here"
            )
        events = sorted(_add_ticks(file), key=lambda event: event[0])  # stable: within a track in its order
    except DataError:
        raise
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, mido.KeySignatureError) as error:
        raise fault(path, f"is no whole MIDI file ({str(error)[:80] or type(error).__name__}): get it again") from error
    time_s, before, tempo = 0.0, 0, 500_000
    for ticks, message in events:
        time_s += mido.tick2second(ticks - before, file.ticks_per_beat, tempo)
        before = ticks
        if message.type == "set_tempo":
            tempo = message.tempo
        yield time_s, message


def _add_ticks(file: mido.MidiFile) -> Iterator[tuple[int, Any]]:
    for track in file.tracks:
        ticks = 0
        for message in track:
            ticks += message.time
            if message.type in ("note_on", "note_off", "control_change", "set_tempo", "end_of_track"):
                yield ticks, message


@dataclass
class Keyboard:
    """Which keys are held and which notes sound; `notes` are (start_s, end_s, pitch) of those that have ended."""

    notes: list[tuple[float, float, int]] = field(default_factory=list)
    sounding: dict[int, float] = field(default_factory=dict)  # pitch -> start_s
    held: set[int] = field(default_factory=set)
    is_down: bool = False

    def take(self, time_s: float, message: Any) -> None:
        """A message of the file at its time."""
        if message.type == "note_on" and message.velocity:
            self._stop([message.note], time_s)
            self.sounding[message.note] = time_s
            self.held.add(message.note)
        elif message.type in ("note_on", "note_off"):
            self.held.discard(message.note)
            if not self.is_down:
                self._stop([message.note], time_s)
        elif message.type == "control_change" and message.control == SUSTAIN:
            self.is_down = message.value >= DOWN
            if not self.is_down:
                self._stop([pitch for pitch in self.sounding if pitch not in self.held], time_s)

    def end(self, time_s: float) -> None:
        """The end of the file."""
        self._stop(list(self.sounding), time_s)

    def _stop(self, pitches: Sequence[int], time_s: float) -> None:
        """A note that stops when it starts is none."""
        for pitch in pitches:
            start_s = self.sounding.pop(pitch, time_s)
            if start_s < time_s:
                self.notes.append((start_s, time_s, pitch))
