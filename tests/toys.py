"""Rows of every kind of task but classes (`saved.opinions`), which any family learns in seconds."""

from typing import Any


def written(count: int) -> list[dict[str, Any]]:
    """Texts and what is to be written for each: always the same."""
    texts = ("I like this box", "my card is late")
    return [{"text": f"{texts[i % 2]} {'very ' * (i % 3)}much", "target": "thank you"} for i in range(count)]


def tagged(count: int) -> list[dict[str, Any]]:
    """Words with their tags: things and places."""
    things, places = (("parcel", "B-thing"), ("card", "O")), ("Berlin", "New York")
    rows = []
    for i in range(count):
        (thing, tag), place = things[i % 2], places[i // 2 % 2].split()
        tags = ["O", tag, "O", *["B-place", "I-place"][: len(place)], "O"]
        rows.append({"tokens": ["my", thing, "from", *place, "came"], "tags": tags})
    return rows


def answered(count: int) -> list[dict[str, Any]]:
    """Questions for a place that the context names."""
    rows = []
    for i in range(count):
        city = ("Berlin", "Paris", "Rome")[i % 3]
        context = f"the {('box', 'card')[i % 2]} is in {city} now"
        answers = [{"text": city, "answer_start": context.index(city)}]
        rows.append({"question": "where is it ?", "context": context, "answers": answers})
    return rows
