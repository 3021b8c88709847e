"""llama.cpp's samplers, one after the other, as its documentation and source define them: slow, plain and in float64.

Written independently of `ggserve.engines.sampling`, which is compared with it.
"""

import math


def softmax(logits):
    peak = max(logits)
    weights = [math.exp(logit - peak) for logit in logits]
    return [weight / sum(weights) for weight in weights]


class Reference:
    """The candidates (id, logit), and the operations on them."""

    def __init__(self, logits):
        self.tokens = [(token, float(logit)) for token, logit in enumerate(logits)]

    def sort(self):
        self.tokens.sort(key=lambda each: -each[1])
        return softmax([logit for _, logit in self.tokens])

    def bias(self, bias):
        self.tokens = [(token, logit + bias.get(token, 0.0)) for token, logit in self.tokens]

    def penalties(self, window, repeat, presence, frequency, counted=None):
        counted = window if counted is None else counted  # tokens that presence and frequency count
        changed = []
        for token, logit in self.tokens:
            if token in window:
                logit = logit * repeat if logit <= 0 else logit / repeat
            times = counted.count(token)
            changed.append((token, logit - times * frequency - (times > 0) * presence))
        self.tokens = changed

    def dry(self, window, multiplier, base, allowed, breakers):
        limit = len(window)
        for back, token in enumerate(reversed(window)):
            if token in breakers:
                limit = back
                break
        if len(window) <= allowed or limit < allowed:
            return
        repeats = {}
        for place in range(1, len(window)):  # would this token repeat?
            length = 0
            while length < min(place, limit) and window[place - 1 - length] == window[-1 - length]:
                length += 1
            if length >= allowed:
                repeats[window[place]] = max(repeats.get(window[place], 0), length)
        self.tokens = [
            (token, logit - multiplier * base ** (repeats[token] - allowed))
            if token in repeats and token not in breakers
            else (token, logit)
            for token, logit in self.tokens
        ]

    def top_n_sigma(self, n):
        logits = [logit for _, logit in self.tokens]
        mean = sum(logits) / len(logits)
        deviation = math.sqrt(sum((logit - mean) ** 2 for logit in logits) / len(logits))
        self.tokens = [
            (token, logit if logit >= max(logits) - n * deviation else -math.inf) for token, logit in self.tokens
        ]

    def top_k(self, k):
        self.sort()
        self.tokens = self.tokens[:k]

    def temperature(self, temperature, spread=0.0, exponent=1.0):
        if spread > 0 and len(self.tokens) > 1:
            entropy = -sum(p * math.log(p) for p in self.sort() if p > 0)
            low, high = max(0.0, temperature - spread), temperature + spread
            temperature = low + (high - low) * (entropy / math.log(len(self.tokens))) ** exponent
        self.tokens = [(token, logit / temperature) for token, logit in self.tokens]

    def typ_p(self, p, min_keep=0):
        probabilities = self.sort()
        entropy = -sum(q * math.log(q) for q in probabilities if q > 0)
        away = [abs(-math.log(q) - entropy) if q > 0 else math.inf for q in probabilities]
        order = sorted(range(len(away)), key=lambda place: away[place])
        kept, total = [], 0.0
        for place in order:
            kept.append(self.tokens[place])
            total += probabilities[place]
            if total > p and len(kept) >= min_keep:
                break
        self.tokens = kept

    def top_p(self, p, min_keep=0):
        total = 0.0
        for count, probability in enumerate(self.sort(), 1):
            total += probability
            if total >= p and count >= min_keep:
                self.tokens = self.tokens[:count]
                return

    def min_p(self, p, min_keep=0):
        probabilities = self.sort()
        count = sum(probability >= p * probabilities[0] for probability in probabilities)
        self.tokens = self.tokens[: max(count, min_keep)]

    def xtc(self, threshold, min_keep=0):
        above = sum(probability >= threshold for probability in self.sort())
        if above > 1 and len(self.tokens) - (above - 1) >= min_keep:
            self.tokens = self.tokens[above - 1 :]

    def mirostat_1(self, bound, vocabulary, considered=100):
        probabilities = self.sort()[:considered]
        top = bottom = 0.0
        for place in range(len(probabilities) - 1):
            t = math.log((place + 2) / (place + 1))
            top += t * math.log(probabilities[place] / probabilities[place + 1])
            bottom += t * t
        s = top / bottom
        k = ((s - 1) * 2**bound / (1 - vocabulary ** (1 - s))) ** (1 / s)
        self.tokens = self.tokens[: max(1, int(k))]

    def mirostat_2(self, bound):
        count = 0
        for probability in self.sort():
            if -math.log2(probability) > bound:
                break
            count += 1
        self.tokens = self.tokens[: max(1, count)]

    def probabilities(self):
        self.sort()
        return {
            token: p
            for (token, _), p in zip(self.tokens, softmax([logit for _, logit in self.tokens]), strict=True)
            if p > 0
        }
