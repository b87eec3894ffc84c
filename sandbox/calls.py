"""What the Sandbox's calls do, written once for threads and event loops: see effects.py."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rlvr.sandbox.effects import AnyDone, Doing, Steps
from rlvr.sandbox.headers import Headers
from rlvr.sandbox.job import Limits, Program, Result, Status, Tier
from rlvr.sandbox.languages import Language
from rlvr.sandbox.link import Exchange, Server, ServerDied, ServerRefused
from rlvr.sandbox.plan import Plan, check_call, check_installed, compile_plan, header_plan, includes, run_plan
from rlvr.sandbox.pool import Pool, Slot, Slots
from rlvr.sandbox.sealed import sealed
from rlvr.sandbox.servers import Servers
from rlvr.sandbox.store import Store
from rlvr.sandbox.wire import Order, pack, unpack_ending

_ATTEMPTS = 2
_GRACE_S = 10.0  # beyond the wall limit, before a silent server counts as dead: a machine may be very busy

Until = Callable[[Result], bool]


class Calls:
    def __init__(self, pool: Pool, servers: Servers, store: Store, headers: Headers) -> None:
        self._pool = pool
        self._servers = servers
        self._store = store
        self._headers = headers
        self._sound: set[str] = set()  # languages whose compiler has compiled something

    def run(self, program: Program, stdin: bytes, limits: Limits, collect: tuple[str, ...]) -> Steps[Result]:
        language = yield from self._checked(program, limits, collect)
        compiled = yield from self._compiled(program, language)
        if isinstance(compiled, Result):
            return compiled
        plan = run_plan(program, language, compiled.descriptor, limits, collect, keep=False)
        result = yield from self._run_once(plan, stdin)
        return replace(result, compile_s=compiled.took_s)

    def run_tests(
        self,
        program: Program,
        stdins: Sequence[bytes],
        limits: Limits,
        until: Until | None,
        together_s: float | None,
    ) -> Steps[list[Result]]:
        language = yield from self._checked(program, limits, ())
        if not stdins:
            return []
        compiled = yield from self._compiled(program, language, together_s)
        if isinstance(compiled, Result):
            return self._the_same_for_all(compiled, stdins, until)
        results: list[Result] = []
        compile_s = compiled.took_s
        left_s = math.inf if together_s is None else together_s - compile_s
        with contextlib.ExitStack() as stack:
            plan = run_plan(program, language, compiled.descriptor, limits, (), keep=True)
            stack.callback(plan.close)
            (slot,) = yield self._pool.take(1)
            stack.enter_context(self._lease((slot,)))
            talk = _Talk(slot, plan)
            for stdin in stdins:
                if left_s <= 0:
                    break
                result = yield from self._attempts(talk, stdin, min(limits.wall_s, left_s))
                left_s -= result.wall_s
                results.append(replace(result, compile_s=compile_s))
                compile_s = 0.0
                if until is not None and until(result):
                    break
            talk.end()
        return results

    def run_together(self, judge: Program, candidate: Program, limits: Limits) -> Steps[tuple[Result, Result]]:
        if self._pool.size < 2:
            raise ValueError("run_together needs a Sandbox with at least 2 slots")
        with contextlib.ExitStack() as stack:
            plans: list[Plan | Result] = []
            for program in (judge, candidate):
                language = yield from self._checked(program, limits, ())
                compiled = yield from self._compiled(program, language)
                if isinstance(compiled, Result):
                    plans.append(compiled)
                    continue
                plan = run_plan(program, language, compiled.descriptor, limits, (), keep=False)
                plan.job = replace(plan.job, has_link=True)
                stack.callback(plan.close)
                plans.append(plan)
            first, second = plans
            if isinstance(first, Result) or isinstance(second, Result):
                return _or_not_run(first), _or_not_run(second)
            slots = yield self._pool.take(2)
            stack.enter_context(self._lease(slots))
            return (yield from self._joined(slots, first, second))

    def _checked(self, program: Program, limits: Limits, collect: tuple[str, ...]) -> Steps[Language]:
        """Raises ValueError for what can never be, or not on this machine."""
        language = check_call(program, limits, collect)
        tier = self._servers.tier
        if tier is None:
            tier = yield Doing(self._servers.find_tier)
        check_installed(language, tier)
        return language

    def _run_once(self, plan: Plan, stdin: bytes) -> Steps[Result]:
        with contextlib.ExitStack() as stack:
            stack.callback(plan.close)
            (slot,) = yield self._pool.take(1)
            stack.enter_context(self._lease((slot,)))
            return (yield from self._attempts(_Talk(slot, plan), stdin, plan.job.wall_s))

    def _compiled(self, program: Program, language: Language, most_s: float | None = None) -> Steps[_Compiled | Result]:
        """What the compiler makes of it in at most so many seconds; the Result if it makes nothing."""
        if not language.compiler:
            return _Compiled(None)
        kept = self._store.get(program)
        if kept is not None:
            return _Compiled(kept)
        header = yield from self._header(program, language)
        result = yield from self._run_once(compile_plan(program, language, header, most_s), b"")
        if result.status is Status.SANDBOX_ERROR:
            return result
        if result.status is not Status.OK or language.artifact not in result.files:
            broken = yield from self._broken_compiler(language)
            if broken is not None:
                return broken
            detail = result.detail or f"the compiler ended with {result.status}"
            return replace(result, status=Status.COMPILE_ERROR, detail=detail, files={})
        self._sound.add(language.name)
        self._store.put(program, result.files[language.artifact])
        return _Compiled(sealed(result.files[language.artifact]), result.wall_s)

    def _broken_compiler(self, language: Language) -> Steps[Result | None]:
        """A failure of ours, where the compiler refuses what it should not: an installation that lacks a part of it."""
        if language.name in self._sound:
            return None
        sample = Program(language.sample, language.name)
        result = yield from self._run_once(compile_plan(sample, language, None), b"")
        if result.status is Status.OK:
            self._sound.add(language.name)
            return None
        words = result.stderr.decode("utf-8", "replace").strip() or result.detail
        detail = f"the compiler of {language.name} does not compile {language.sample!r}: {words[-500:]}"
        return replace(result, status=Status.SANDBOX_ERROR, detail=detail, files={})

    def _header(self, program: Program, language: Language) -> Steps[int | None]:
        """The language's compiled header, for programs that begin with it."""
        header = language.header
        if header is None or not includes(program, header):
            return None
        if self._headers.claim(language):
            try:
                result = yield from self._run_once(header_plan(language, header), b"")
            except BaseException:
                self._headers.give_up(language)
                raise
            if header.artifact in result.files:
                self._headers.put(language, result.files[header.artifact])
            elif result.status is Status.SANDBOX_ERROR:
                self._headers.give_up(language)
        return self._headers.get(language)

    def _attempts(self, talk: _Talk, stdin: bytes, wall_s: float) -> Steps[Result]:
        """Run one program for `wall_s` at most, on a second server if the first one dies."""
        failure = ""
        for _ in range(_ATTEMPTS):
            try:
                server = yield from self._server(talk.slot)
                with _descriptor(stdin) as stdin_descriptor:
                    exchange = talk.exchange(server, stdin_descriptor, wall_s)
                    yield AnyDone([exchange])
                return self._result(exchange)
            except (ServerDied, ServerRefused) as error:
                talk.slot.discard()
                failure = str(error)
        return self._failed(failure)

    def _joined(self, slots: Slots, judge: Plan, candidate: Plan) -> Steps[tuple[Result, Result]]:
        failure = ""
        for _ in range(_ATTEMPTS):
            try:
                exchanges = []
                links = socket.socketpair()
                with links[0], links[1], _descriptor(b"") as stdin:
                    for slot, plan, link in zip(slots, (judge, candidate), links, strict=True):
                        server = yield from self._server(slot)
                        descriptors = [stdin, link.fileno(), *plan.descriptors]
                        exchange = Exchange(server, pack(plan.job), descriptors, plan.job.limits.wall_s + _GRACE_S)
                        # Which sends the descriptors: ours are closed now, for each to see the other's end.
                        exchange.advance()
                        exchanges.append(exchange)
                of_judge, of_candidate = exchanges
                yield AnyDone(exchanges)
                if of_judge.done and not of_candidate.done:
                    of_candidate.server.order(Order(start=False))
                yield AnyDone([exchange for exchange in exchanges if not exchange.done] or exchanges)
                return self._result(of_judge), self._result(of_candidate)
            except (ServerDied, ServerRefused) as error:
                for slot in slots:
                    slot.discard()
                failure = str(error)
        return self._failed(failure), self._failed(failure)

    def _server(self, slot: Slot) -> Steps[Server]:
        if slot.server is not None and not slot.server.usable():
            slot.discard()
        if slot.server is None:
            slot.server = yield Doing(self._servers.start)
        self._pool.check_open()  # now: closing ends the servers that it sees in their slots
        assert slot.server is not None
        return slot.server

    @contextlib.contextmanager
    def _lease(self, slots: Slots) -> Iterator[None]:
        """Give slots back after use, without the servers of a call that was cancelled or failed: a job is in them."""
        try:
            yield
        except BaseException:
            for slot in slots:
                slot.discard()
            raise
        finally:
            self._pool.give_back(slots)

    def _result(self, exchange: Exchange) -> Result:
        """Raises ServerDied if there is none."""
        if exchange.error is not None:
            raise exchange.error
        assert exchange.answer is not None
        head = exchange.answer.head()
        if isinstance(head, str):
            raise ServerDied(head)
        ending, body = unpack_ending(head), exchange.answer.body()
        pieces, start = [], 0
        for size in (*ending.sizes, *(size for _, size in ending.files)):
            pieces.append(bytes(body[start : start + size]))
            start += size
        return Result(
            status=ending.status,
            stdout=pieces[0],
            stderr=pieces[1],
            exit_code=ending.exit_code,
            signal=ending.signal,
            wall_s=ending.wall_s,
            cpu_s=ending.cpu_s,
            peak_memory_bytes=ending.peak_memory_bytes,
            tier=self._servers.tier or Tier.NONE,
            detail=ending.detail,
            files={name: piece for (name, _), piece in zip(ending.files, pieces[2:], strict=True)},
        )

    def _failed(self, failure: str) -> Result:
        self._pool.check_open()
        return Result(Status.SANDBOX_ERROR, tier=self._servers.tier or Tier.NONE, detail=failure)

    @staticmethod
    def _the_same_for_all(result: Result, stdins: Sequence[bytes], until: Until | None) -> list[Result]:
        results: list[Result] = []
        for _ in stdins:
            results.append(result)
            if until is not None and until(result):
                break
        return results


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A compiled program, open, and how long its compiler took just now; None where the language has no compiler."""

    descriptor: int | None
    took_s: float = 0.0


class _Talk:
    """With one slot's server about one job: the whole job to a server that does not have it, else the next stdin."""

    def __init__(self, slot: Slot, plan: Plan) -> None:
        self.slot = slot
        self._plan = plan
        self._told: Server | None = None

    def exchange(self, server: Server, stdin: int, wall_s: float) -> Exchange:
        deadline_s = wall_s + _GRACE_S
        if server is self._told:
            return Exchange(server, pack(Order(start=True, wall_s=wall_s)), [stdin], deadline_s)
        self._told = server
        return Exchange(
            server, pack(replace(self._plan.job, wall_s=wall_s)), [stdin, *self._plan.descriptors], deadline_s
        )

    def end(self) -> None:
        if self._told is not None and self.slot.server is self._told:
            self._told.order(Order(start=False))


@contextlib.contextmanager
def _descriptor(content: bytes) -> Iterator[int]:
    descriptor = sealed(content) if content else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _or_not_run(plan: Plan | Result) -> Result:
    if isinstance(plan, Result):
        return plan
    return Result(Status.KILLED, detail="not run: the program that it was to be joined to did not compile")
