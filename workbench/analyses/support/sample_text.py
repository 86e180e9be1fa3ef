"""A short text of several kinds, written for this project, for measurements without a text of the user's own."""

SAMPLE_TEXT = '''\
The harbour was quiet before dawn. Two gulls stood on the sea wall and watched the first boat come in, low in the
water, its engine coughing. Marta caught the rope, tied it to the iron ring, and counted the crates as they were lifted
ashore: eleven of mackerel, four of crab. "Eleven and four," she said, and wrote fifteen in the book. Her brother said
nothing. He had been out since midnight, and the cold had gone into his hands.

A river carries what it has taken from the hills. Where it runs fast it moves stones; where it slows, it drops the
stones first, then the sand, and last of all the mud. That is why the floor of a valley is finer soil the further one
walks towards the sea, and why a flood, which is only a river in a hurry, can leave boulders in a meadow. Geologists
read such layers from the bottom up, since the oldest lies deepest.

To bake a plain loaf, mix five hundred grams of flour with ten grams of salt, seven grams of yeast and three hundred
and twenty grams of warm water. Knead the dough for ten minutes, let it rest for an hour, fold it, and let it rest
again. Bake it in a hot oven until the crust is brown and the loaf sounds hollow when it is tapped.

In the spring of that year the council voted on the bridge. The vote was close, nine against eight, and the mayor, who
had promised not to take sides, broke the tie that had never been. Newspapers in the capital called it a scandal; people
in the town called it Tuesday.

def running_mean(values, width):
    """The mean of each stretch of `width` neighbouring values."""
    if width < 1 or width > len(values):
        raise ValueError(f"width {width} does not fit {len(values)} values")
    total = sum(values[:width])
    means = [total / width]
    for index in range(width, len(values)):
        total += values[index] - values[index - width]
        means.append(total / width)
    return means


class Counter:
    def __init__(self):
        self.counts = {}

    def add(self, word):
        self.counts[word] = self.counts.get(word, 0) + 1

    def most_common(self, number=10):
        pairs = sorted(self.counts.items(), key=lambda pair: pair[1], reverse=True)
        return pairs[:number]
'''
