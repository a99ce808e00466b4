#!/usr/bin/env python3
"""A second reckoning of MOS, written apart from the one in crates/probe and compared with it by that crate's tests.

Usage: python3 docs/reference-mos/mos.py > docs/reference-mos/mos.csv

It follows ITU-T G.107 (the narrow-band E-model) from its parameters on, where crates/probe has the terms that never change
as constants. What it knows of a call is a pattern of 500 packets, each of which came or did not.

The patterns
    Numbers come from a linear congruential generator, modulo 2^64: the state begins as the seed, each draw makes it
    state * 6364136223846793005 + 1442695040888963407, and gives ((state >> 32) * 1000000) >> 32, so 0 to 999999.
    bernoulli  loss_parameter is P in millionths: one draw a packet, which is lost if the draw is below P.
    gilbert    loss_parameter is P/Q in millionths: the line begins well. One draw a packet: a good line turns bad if the
               draw is below P, a bad one turns good if it is below Q; then the packet is lost if the line is bad.
    The first and the last packet always come: a receiver cannot know what was lost before the one or after the other.

The delay
    delay_ms is the network's, one way. What the model is given is 40 ms more: a packet of 20 ms, and a playout buffer of
    20 ms, the least that is assumed.
"""

import csv
import itertools
import math
import sys

PACKETS = 500
SEEDS = [1, 2, 3, 1977]
BERNOULLI = [0, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000]
GILBERT = [
    (1_000, 500_000), (2_000, 500_000), (3_000, 400_000), (5_000, 600_000), (5_000, 333_333), (10_000, 600_000),
    (20_000, 700_000), (30_000, 100_000),
]
DELAYS_MS = [20, 50, 100, 150, 200, 300]
PACKETISATION_MS = 20
PLAYOUT_MS = 20

# G.107 table 2, and G.113 appendix I for G.711 without loss concealment (Ie, Bpl).
DEFAULTS = dict(
    SLR=8.0, RLR=2.0, STMR=15.0, Dr=3.0, Ds=3.0, TELR=65.0, WEPL=110.0, qdu=1.0, Nc=-70.0, Nfor=-64.0, Ps=35.0, Pr=35.0,
    A=0.0, T=0.0, Ta=0.0, Tr=0.0, Ie=0.0, Bpl=4.3, Ppl=0.0, BurstR=1.0,
)


def draws(seed):
    """The generator of the patterns."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield (state >> 32) * 1_000_000 >> 32


def bernoulli(seed, parameter):
    """Packet by packet: did it come?"""
    for _, draw in zip(range(PACKETS), draws(seed)):
        yield draw >= parameter


def gilbert(seed, parameter):
    worse, better = parameter
    bad = False
    for _, draw in zip(range(PACKETS), draws(seed)):
        bad = draw >= better if bad else draw < worse
        yield not bad


def pattern(model, seed, parameter):
    came = list(model(seed, parameter))
    came[0] = came[-1] = True
    return came


def loss_and_bursts(came):
    """Packets lost, and the mean length of their bursts over that of random loss (G.107 §7.5), at least 1."""
    bursts = [len(list(run)) for arrived, run in itertools.groupby(came) if not arrived]
    lost = sum(bursts)
    if lost == 0:
        return 0, 1.0
    mean = lost / len(bursts)
    random_mean = 1 / (1 - lost / len(came))
    return lost, max(1.0, mean / random_mean)


def dB_sum(*levels):
    return 10 * math.log10(sum(10 ** (level / 10) for level in levels))


def power_mean(x, n):
    return (1 + x**n) ** (1 / n)


def hyperbola(difference, squared):
    """The form that G.107 gives to echo: nothing far below zero, the difference far above it."""
    return difference / 2 + math.sqrt(difference**2 / 4 + squared)


class EModel:
    """G.107 §7; the letters are those of the recommendation."""

    def __init__(self, **parameters):
        for name, value in {**DEFAULTS, **parameters}.items():
            setattr(self, name, value)
        self.OLR = self.SLR + self.RLR

    def No(self):
        Nos = self.Ps - self.SLR - self.Ds - 100 + 0.004 * (self.Ps - self.OLR - self.Ds - 14) ** 2
        LSTR = self.STMR + self.Dr
        Pre = self.Pr + 10 * math.log10(1 + 10 ** ((10 - LSTR) / 10))
        Nor = self.RLR - 121 + Pre + 0.008 * (Pre - 35) ** 2
        Nfo = self.Nfor + self.RLR
        return dB_sum(self.Nc, Nos, Nor, Nfo)

    def Ro(self):
        return 15 - 1.5 * (self.SLR + self.No())

    def Is(self):
        return self.Iolr() + self.Ist() + self.Iq()

    def Iolr(self):
        Xolr = self.OLR + 0.2 * (64 + self.No() - self.RLR)
        return 20 * (power_mean(Xolr / 8, 8) - Xolr / 8)

    def Ist(self):
        STMRo = -10 * math.log10(10 ** (-self.STMR / 10) + math.exp(-self.T / 4) * 10 ** (-self.TELR / 10))
        return (
            12 * power_mean((STMRo - 13) / 6, 8)
            - 28 * power_mean((STMRo + 1) / 19.4, 35)
            - 13 * power_mean((STMRo - 3) / 33, 13)
            + 29
        )

    def Iq(self):
        Q = 37 - 15 * math.log10(self.qdu)
        G = 1.07 + 0.258 * Q + 0.0602 * Q**2
        Y = (self.Ro() - 100) / 15 + 46 / 8.4 - G / 9
        Z = 46 / 30 - G / 40
        return 15 * math.log10(1 + 10**Y + 10**Z)

    def Id(self):
        return self.Idte() + self.Idle() + self.Idd()

    def Idte(self):
        """Talker echo. STMR lies between 9 and 20 dB, where TERV needs no correction."""
        TERV = self.TELR - 40 * math.log10((1 + self.T / 10) / (1 + self.T / 150)) + 6 * math.exp(-0.3 * self.T**2)
        Roe = -1.5 * (self.No() - self.RLR)
        Re = 80 + 2.5 * (TERV - 14)
        return (hyperbola(Roe - Re, 100) - 1) * (1 - math.exp(-self.T))

    def Idle(self):
        """Listener echo."""
        Rle = 10.5 * (self.WEPL + 7) * (self.Tr + 1) ** -0.25
        return hyperbola(self.Ro() - Rle, 169)

    def Idd(self):
        """Too long an absolute delay."""
        if self.Ta <= 100:
            return 0.0
        X = math.log2(self.Ta / 100)
        return 25 * (power_mean(X, 6) - 3 * power_mean(X / 3, 6) + 2)

    def Ie_eff(self):
        return self.Ie + (95 - self.Ie) * self.Ppl / (self.Ppl / self.BurstR + self.Bpl)

    def R(self):
        return self.Ro() - self.Is() - self.Id() - self.Ie_eff() + self.A


def mos(R):
    """G.107 annex B. Between 0 and 6.5 the polynomial falls below 1, which is the lowest opinion."""
    if R <= 0:
        return 1.0
    if R >= 100:
        return 4.5
    return max(1.0, 1 + 0.035 * R + R * (R - 60) * (100 - R) * 7e-6)


def row(seed, model, parameter, delay_ms):
    came = pattern(model, seed, parameter)
    lost, burst_ratio = loss_and_bursts(came)
    delay = delay_ms + PACKETISATION_MS + PLAYOUT_MS
    R = EModel(T=delay, Ta=delay, Tr=2 * delay, Ppl=100 * lost / len(came), BurstR=burst_ratio).R()
    written = f"{parameter[0]}/{parameter[1]}" if isinstance(parameter, tuple) else str(parameter)
    return [seed, model.__name__, written, delay_ms, lost, f"{burst_ratio:.6f}", f"{R:.4f}", f"{mos(R):.4f}"]


def main():
    # What the recommendation itself says of its defaults (§7.7).
    assert f"{EModel().R():.1f}" == "93.2", EModel().R()
    assert f"{mos(93.2):.2f}" == "4.41"
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["seed", "model", "loss_parameter", "delay_ms", "lost", "burst_ratio", "r", "mos"])
    patterns = [(bernoulli, parameter) for parameter in BERNOULLI] + [(gilbert, parameter) for parameter in GILBERT]
    for (model, parameter), seed, delay_ms in itertools.product(patterns, SEEDS, DELAYS_MS):
        out.writerow(row(seed, model, parameter, delay_ms))


if __name__ == "__main__":
    main()
