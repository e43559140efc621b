"""Mutations of population-based training: a new point of the space near another one, for the same architecture."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from types import FunctionType
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from gatesweep.core import rng
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.values import with_values
from gatesweep.sweeps.search.space import Space, suggest_values
from gatesweep.sweeps.search.warm_start import place_values

SHIFT = 0.2  # of a number: Jaderberg et al. multiply by 0.8 or 1.2
STRUCTURE = (bool, int, str, tuple, FunctionType, type(None))  # attributes of these types belong to the architecture


class Mutator:
    """Makes mutations in a space whose trials train as `config` says, apart from their values."""

    def __init__(self, space: Space, config: Config, resample_probability: float) -> None:
        self.space, self.config, self.resample_probability = space, config, resample_probability
        self.draw = random.Random(config.seed)
        self.fixed: set[str] = set()  # parameters that have changed the architecture once: they are left alone

    def mutate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return other values near `values`, a point of the space, that take over weights trained with `values`.

        Each parameter is drawn anew or shifted, within its own bounds and on its own grid. One whose change would
        change the architecture keeps its value. Leaves of a branch that the mutation enters are drawn.
        """
        point = place_values(values, self.space)
        if point is None:  # trained before the space was changed
            return dict(values)
        mutation = MutatedTrial(point.params, self.draw, self.resample_probability)
        mutated = self._suggest(mutation, self.fixed)
        wanted = architecture(self.config, values)
        if architecture(self.config, mutated) == wanted:
            return mutated
        kept = set(mutation.changed)
        for name in mutation.changed:
            if name in self.fixed:
                continue
            if architecture(self.config, self._suggest(mutation, kept - {name} | self.fixed)) == wanted:
                kept.discard(name)
            else:
                self.fixed.add(name)
        return self._suggest(mutation, kept | self.fixed)

    def _suggest(self, mutation: MutatedTrial, kept: Collection[str]) -> dict[str, Any]:
        mutation.kept = kept
        return suggest_values(mutation, self.space)  # type: ignore[arg-type]


class MutatedTrial:
    """A trial whose `suggest_` methods, those of an Optuna trial, return a mutation of `params`.

    A name in `kept` keeps its value. Asked again, a name has the same mutation.
    """

    def __init__(self, params: Mapping[str, Any], draw: random.Random, resample_probability: float) -> None:
        self.params, self.draw, self.resample_probability = params, draw, resample_probability
        self.kept: Collection[str] = ()
        self.changed: dict[str, Any] = {}  # the mutations so far, by name

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a number between `low` and `high`, on the grid of `step`."""
        return self._value(name, FloatDistribution(low, high, log=log, step=step))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return a whole number between `low` and `high`, on the grid of `step`."""
        return self._value(name, IntDistribution(low, high, log=log, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        return self._value(name, CategoricalDistribution(choices))

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self.kept and name in self.params:
            return self.params[name]
        if name not in self.changed:
            self.changed[name] = self._mutation(name, distribution)
        return self.changed[name]

    def _mutation(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self.params or self.draw.random() < self.resample_probability:
            sampler = RandomSampler(seed=self.draw.randrange(2**32))
            return sampler.sample_independent(None, None, name, distribution)  # type: ignore[arg-type]
        up = self.draw.random() < 0.5
        if isinstance(distribution, CategoricalDistribution):
            choices = distribution.choices
            return choices[min(max(choices.index(self.params[name]) + (1 if up else -1), 0), len(choices) - 1)]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        return shifted(self.params[name], distribution, up)


def shifted(value: float, distribution: FloatDistribution | IntDistribution, up: bool) -> float:
    """Return a number a fifth above or below `value`, within the bounds; on a grid it is at least one step away.

    Zero moves by a fifth of the range.
    """
    low, high, step = distribution.low, distribution.high, distribution.step
    change = SHIFT * (abs(value) or high - low) * (1 if up else -1)
    if step is None:
        return min(max(value + change, low), high)
    steps = round(change / step) or (1 if up else -1)
    place = min(max(round((value - low) / step) + steps, 0), math.floor((high - low) / step + 1e-9))
    return min(low + place * step, high)  # 0.1 * 3 > 0.3


def architecture(config: Config, values: Mapping[str, Any]) -> list[Any] | None:
    """Return what weights are tied to; None where the trainable cannot be built with these values.

    It is the names, shapes and types of the state, and the types and the structural attributes of all parts of the
    trainable: whole numbers, text, functions. A number of heads has no shape of its own, yet weights depend on it. A
    float (a rate, a dropout) may change, and so may the attributes of the trainable itself.
    """
    generators = rng.state()  # building seeds them
    try:
        trainable, _ = build_run(with_values(config, values).replace(device="cpu"))
    except Exception:  # whatever a family raises about its arguments
        return None
    finally:
        rng.restore(generators)
    state = [(name, tensor.shape, tensor.dtype) for name, tensor in trainable.state_dict().items()]
    parts = [(name, type(module), _structure(module)) for name, module in trainable.named_modules() if name]
    return [*state, *parts]


def _structure(module: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if isinstance(value, STRUCTURE)}
