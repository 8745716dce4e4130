"""Runs requests: transformers' `generate`, in turn with the others, each with draws of its own.

Stands where transformers' server expects its manager of one model. Does not bound what a request
takes, see `serving.limits`, or say whose turn it is, see `serving.turns`.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.cli.serving.utils import GenerateManager

from bitstack.live.generation import encoded_prompt
from bitstack.serving.asked import Asked, current
from bitstack.serving.limits import MOST_WAITING, Limits
from bitstack.serving.refusals import Refused
from bitstack.serving.turns import Turns

_log = logging.getLogger(__name__)


class Running(GenerateManager):
    """transformers' manager of a model's generations, with several of them side by side."""

    def __init__(self, limits: Limits, parallel: int) -> None:
        """Makes a manager that runs `parallel` requests in turn; further ones wait for an end."""
        self.limits, self.parallel = limits, parallel
        self.turns = Turns()
        self.stopping = False
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="bitstack-generate")
        self._unfinished: set[Future[Any]] = set()

    @property
    def unfinished(self) -> int:
        """Requests that run or wait."""
        return len(self._unfinished)

    def generate_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Is transformers' method, for a request that is within the limits.

        Raises:
            Refused: It is not, or too many requests wait.
        """
        one, inputs = self._admitted(model, processor, inputs, gen_config)
        return super().generate_streaming(one, processor, inputs, gen_config, *args, **kwargs)

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The same without a stream."""
        one, inputs = self._admitted(model, processor, inputs, gen_config)
        return await super().generate_non_streaming(
            one, processor, inputs, gen_config, *args, **kwargs
        )

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls a function on a thread of its own, as soon as one is free."""
        future = self._pool.submit(fn, *args, **kwargs)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future

    def async_submit(
        self, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> asyncio.Future[Any]:
        """The same for an event loop."""
        return asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    def stop(self) -> None:
        """Ends all requests after the token they compute."""
        self.stopping = True

    def close(self) -> None:
        """Ends all requests and waits for the threads."""
        self.stop()
        self._pool.shutdown(cancel_futures=True)

    def _admitted(
        self, model: Any, processor: Any, inputs: Any, config: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """Returns what stands for the model in this request, and its prompt."""
        if self.unfinished >= self.parallel + MOST_WAITING:
            raise Refused(503, f"{self.unfinished} requests run or wait already; try again later")
        asked = current.get()
        if asked.prompt is not None:
            inputs = encoded_prompt(processor, asked.prompt)
        ids = inputs["input_ids"].to(model.device)
        self.limits.settle(asked, ids.shape[1], config)
        tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return OneRequest(self, model, asked), tensors


class OneRequest:
    """One generation. transformers' manager takes it for the model, and calls its `generate`."""

    def __init__(self, running: Running, model: Any, asked: Asked) -> None:
        self._running, self._model, self._asked = running, model, asked
        self._draws = Draws(model.device, asked.seed)

    def generate(self, **kwargs: Any) -> Any:
        """Returns the ids of prompt and answer, as `model.generate` does.

        Raises:
            Refused: The client is gone, the server stops, or the model fails.
        """
        self._running.turns.take(first=True)
        try:
            self.check()
            self._draws.swap()
            try:
                between = StoppingCriteriaList([_BetweenTokens(self)])
                return self._model.generate(**kwargs, stopping_criteria=between)
            finally:
                self._draws.swap()
        except Refused:
            raise
        except (MemoryError, torch.OutOfMemoryError):
            raise Refused(503, "no memory for this request; try a shorter one, or later") from None
        except Exception as error:
            self.check()  # transformers ends a stream without a reader by an error of its own
            _log.exception("a request failed")
            raise Refused(500, f"the model failed: {type(error).__name__}: {error}") from None
        finally:
            self._running.turns.give()

    def check(self) -> None:
        """Raises Refused where nobody waits for an answer any more."""
        if self._running.stopping:
            raise Refused(503, "the server stops")
        if self._asked.gone.is_set():
            raise Refused(499, "the client hung up")

    def pass_on(self) -> None:
        """Lets other requests compute a token each."""
        if self._running.turns.wanted:
            self._draws.swap()
            self._running.turns.pass_on()
            self._draws.swap()


class _BetweenTokens(StoppingCriteria):
    """Is called by `generate` after every token: lets the others go on, and ends for nobody."""

    def __init__(self, request: OneRequest) -> None:
        self._request = request

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Any:
        self._request.check()
        self._request.pass_on()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Draws:
    """The random state of one request, put in the place of torch's own while it computes.

    So a seed gives the same text whatever other requests draw meanwhile.
    """

    def __init__(self, device: torch.device, seed: int | None) -> None:
        self._device = device
        generator = torch.Generator(device).manual_seed(
            secrets.randbits(62) if seed is None else seed
        )
        self._state = generator.get_state()

    def swap(self) -> None:
        """Exchanges the two states."""
        if self._device.type == "cuda":
            before = torch.cuda.get_rng_state(self._device)
            torch.cuda.set_rng_state(self._state, self._device)
        else:
            before = torch.get_rng_state()
            torch.set_rng_state(self._state)
        self._state = before
