"""Whom the second simulator lets in and whose turn it is: all counted anew for each request."""

from math import ceil, inf
from typing import Any

import numpy as np

from simulator.policies.classes import Classes, ServiceClass


class Doorkeeper:
    """Says why a request is not let in, by the admission policy of the world's deployment."""

    def __init__(self, world: Any, classes: Classes, seed: int) -> None:
        self.world, self.classes = world, classes
        self.policy = world.deployment.admission
        luck = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(5,)))
        self.luck = luck.random(len(world.jobs)).tolist()
        self.read, self.full = -inf, 0.0
        self.foreseen: list[tuple[float, int]] = []  # when who was let in is due, and its prompt

    def refusal(self, job: Any, site: Any) -> str:
        """Return why ``site`` does not get the request, or nothing."""
        told = {
            "QueueCap": self.crowded,
            "TokenTiers": self.too_much,
            "Shed": self.unlucky,
            "EarlyRejection": self.too_late,
        }.get(type(self.policy).__name__)
        return "" if told is None else told(job, site)

    def claim(self, job: Any) -> Any:
        """Return by what a prompt stands in its queue, the least first."""
        queue, service = self.world.deployment.queue, self.classes[job.number]
        tokens = job.prompt + len(job.tokens) - job.expected
        late = inf if service.ttft_s is None else service.ttft_s
        aged = (
            job.arrival / getattr(queue, "aging_s", None) if getattr(queue, "aging_s", None) else 0
        )
        return {
            "Fcfs": 0,
            "Sjf": tokens,
            "Wspt": (-service.priority, -(1 + service.jump) / max(1, tokens)),
            "Edf": job.arrival + late,
            "Priority": (aged - service.priority, job.arrival),
        }[type(queue).__name__]

    def share(self, job: Any, site: Any, load: tuple[int, int, int]) -> float:
        """Return the larger share of its targets that a request would take at ``site``."""
        service, tokens = self.classes[job.number], job.prompt + len(job.tokens[:-1])
        shares = [0.0]
        if site.pool.role != "decode" and service.ttft_s:
            shares.append((site.backlog_s(load[1]) + site.alone_s(tokens)) / service.ttft_s)
        if site.pool.role != "prefill" and service.tpot_s:
            context = load[2] * site.pool.batching.block_size + tokens
            shares.append(seconds(site, load[0] + 1, context) / service.tpot_s)
        return max(shares)

    def computed_s(self, job: Any, site: Any, waiting: int) -> float:
        """Return when a prompt would be computed behind so many tokens."""
        tokens = job.prompt + len(job.tokens[:-1])
        return float(site.backlog_s(waiting) + site.alone_s(tokens))

    def decode_s(self, job: Any, site: Any, load: tuple[int, int, int]) -> float:
        """Return a decode step's seconds with this request too."""
        tokens = job.prompt + len(job.tokens[:-1])
        context = load[2] * site.pool.batching.block_size + tokens
        return seconds(site, load[0] + 1, context)

    def load(self, site: Any, stage: int = 0) -> tuple[int, int, int]:
        """Return what a router sees: requests, prompt tokens to compute, prompt blocks."""
        seen: tuple[int, int, int] = self.world.load(site, stage)
        return seen

    def crowded(self, job: Any, site: Any) -> str:  # noqa: ARG002
        """Say whether the queue is full."""
        share = ceil(len(self.world.held) / len(self.world.entries))
        return "queue_full" if len(site.queue) + share >= self.policy.waiting else ""

    def too_much(self, job: Any, site: Any) -> str:  # noqa: ARG002
        """Say whether more is pending than such a prompt may wait behind."""
        here = self.world.entries
        pending = sum(self.load(each)[1] for each in here)
        pending += sum(each.prompt for each in self.world.held)
        new = job.prompt - job.expected
        most = [cap for least, cap in self.policy.tiers if least <= new][-1:]
        return "queue_full" if most and pending > most[0] * len(here) else ""

    def unlucky(self, job: Any, site: Any) -> str:  # noqa: ARG002
        """Say whether a request that may be shed is."""
        policy, now = self.policy, self.world.now
        if self.classes[job.number].priority >= 0:
            return ""
        if now - self.read >= policy.refresh_s:
            there = [*self.world.entries, *self.world.decoders]
            shares = [
                max(
                    each.gauges()[0] / policy.queue,
                    each.used / each.plan.kv_blocks / policy.kv,
                )
                for each in there
            ]
            self.read, self.full = now, sum(shares) / len(there)
        chance = min(policy.factor * self.full**policy.power, 1.0)
        return "shed" if self.luck[job.number] < chance else ""

    def too_late(self, job: Any, site: Any) -> str:
        """Say whether a target would be missed."""
        service, now = self.classes[job.number], self.world.now
        loads = {each: self.load(each) for each in self.world.entries}
        first = min(loads, key=lambda each: (loads[each][1], loads[each][0]))
        soon = first.backlog_s(loads[first][1]) + first.alone_s(job.prompt)
        at_router = sum(each.prompt for each in self.world.held)
        soon += first.backlog_s(ceil(at_router / len(loads)))
        if first.pool.role == "prefill":
            soon += self.world.deployment.handover_s
        if service.ttft_s is not None and now - job.arrival + soon > service.ttft_s:
            return "early_rejection"
        if service.tpot_s is not None and self.step_s(job, site, now + soon) > service.tpot_s:
            return "early_rejection"
        if self.policy.predicts and service.tpot_s is not None:
            self.foreseen.append((now + soon, job.prompt))
        return ""

    def step_s(self, job: Any, site: Any, due: float) -> float:
        """Return how long a decode worker's step takes with this request, now or when it is due."""
        mixed, decode_s = site.pool.role == "mixed", self.policy.decode_s
        team = self.world.entries if mixed else self.world.decoders
        if not team:
            return inf
        if not self.policy.predicts:
            loads = {each: self.load(each, 0 if mixed else 1) for each in team}
            last = site if mixed else min(team, key=lambda each: (loads[each][2], loads[each][0]))
            size = last.pool.batching.block_size
            return seconds(last, loads[last][0] + 1, loads[last][2] * size + job.prompt)
        self.foreseen = [each for each in self.foreseen if each[0] > self.world.now - decode_s]
        there = sum(due - decode_s < when <= due for when, _ in self.foreseen) + 1
        prompts = [*(prompt for _, prompt in self.foreseen), job.prompt]
        batch = ceil(there / len(team))
        roles = "mixed" if mixed else "decode"
        example = next(each for each in self.world.sites if each.pool.role == roles)
        return seconds(example, batch, batch * (sum(prompts) / len(prompts)))


def seconds(site: Any, batch: int, context: float) -> float:
    """Return a decode step's seconds."""
    pieces = site.steps.decode_pieces(batch)
    _, c0, c1, c2 = next(piece for piece in pieces if int(context) <= piece.upto)
    return float(c0 + context * (c1 + context * c2))


def drawn_classes(requests: int, draw: Any) -> Classes:
    """Return two classes, one of which may be shed, and who belongs to which."""
    kinds = (
        ServiceClass(ttft_s=draw.choice([0.1, 0.5, 2.0]), tpot_s=draw.choice([0.015, 0.03, 0.1])),
        ServiceClass(priority=-1, ttft_s=draw.choice([0.05, 3.0]), tpot_s=0.05, jump=2.0),
    )
    return Classes(kinds=kinds, of=bytes(draw.choice([0, 1]) for _ in range(requests)))
