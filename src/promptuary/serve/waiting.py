"""Which of the rows that wait share the next pass: padding costs more than a pass of its own, and nobody is forgotten.

Every pass takes the row that waits longest. So a row waits for no more passes than there were rows before it, whatever
their lengths; what goes along is chosen by length.
"""

from collections.abc import Sequence

ALONE = 32  # tokens that a pass costs by itself: `minilm` on a CPU (benchmarks/results/engine.json, "alone")


def chosen(lengths: Sequence[int], *, rows: int, tokens: int, alone: int = ALONE) -> list[int]:
    """The numbers of the rows for one pass: the first, and those that make the most of it.

    Of all rows that are neighbours in length, with the first among them, those of the most tokens for their cost: the
    pass's own and that of every column, padding counted.

    Arguments:
        lengths: tokens of each row that waits, the longest waiting first.
        rows, tokens: of a pass at most, padding counted. The first row goes, however long it is.
        alone: what a pass costs by itself, in tokens.
    """
    order = sorted(range(len(lengths)), key=lambda n: (lengths[n], n))
    first = order.index(0)
    best, worth = order[first : first + 1], lengths[0] / (alone + lengths[0])
    real = 0
    for end in range(first, len(order)):  # of the window in `order`, its longest row
        longest, count = lengths[order[end]], end - first + 1
        real += longest
        if count > rows or count * longest > max(tokens, lengths[0]):
            break
        begin, held = first, real
        while begin and count < rows and (count + 1) * longest <= tokens:
            more = lengths[order[begin - 1]]
            if more * (alone + count * longest) < held * longest:
                break  # it, and every shorter one, would bring less than it costs
            begin, count, held = begin - 1, count + 1, held + more
        if held / (alone + count * longest) > worth:
            best, worth = order[begin : end + 1], held / (alone + count * longest)
    return best
