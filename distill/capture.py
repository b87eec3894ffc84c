"""`rlvr distill capture`: what a teacher says of each token of given answers, into a store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rlvr.config import Config
from rlvr.distill.gate import Gate, leave_records
from rlvr.distill.opd import teacher_word
from rlvr.distill.provenance import TeacherRecord, merged, read_provenance
from rlvr.distill.rows_file import example_of, read_rows_file
from rlvr.distill.served_teacher import ServedTeacher
from rlvr.distill.store import StoreHeader, StoreWriter, TeacherStore
from rlvr.distill.teachers import Teacher, local_teacher
from rlvr.distill.tokenizers import fingerprint, refuse_mismatch
from rlvr.prepare import load_tokenizer
from rlvr.types import ScoreRequest

# Rows of one file of a store: what a capture that is killed does again.
_ROWS_OF_A_FILE = 256


async def capture(
    config: Config, teacher_name: str, rows_file: Path, k: int, out: Path, gate: Gate, tokenizer_name: str | None = None
) -> TeacherStore:
    """Ask a teacher about the rows of a file, in the student's tokens. A capture that was ended goes on."""
    word = teacher_word(teacher_name)
    (terms,) = gate.check([word.name])
    student = load_tokenizer(config.model.name)
    tokenizer = load_tokenizer(tokenizer_name if word.url and tokenizer_name else word.name)
    refuse_mismatch(student, tokenizer, word.name)
    temperature = config.sampling.temperature
    header = StoreHeader(word.name, fingerprint(student), _vocabulary(student.get_vocab()), k, temperature)
    examples = [example_of(row, student) for row in read_rows_file(rows_file)]
    writer = StoreWriter(out, header)
    questions = [
        (number, ScoreRequest(tuple(example.token_ids), example.learned.index(True), temperature, top_k=k))
        for number, example in enumerate(examples)
        if number not in writer.rows
    ]
    teacher: Teacher = local_teacher(config, word.name) if word.url is None else ServedTeacher(word.url, word.name)
    await teacher.start()
    try:
        for start in range(0, len(questions), _ROWS_OF_A_FILE):
            await _ask(teacher, questions[start : start + _ROWS_OF_A_FILE], writer)
    finally:
        await teacher.close()
    writer.finish()
    own = TeacherRecord(word.name, tuple(licence.id for licence in terms.licences), header.tokenizer)
    known = merged([read_provenance(rows_file)])
    leave_records(out, Path(config.model.name), [own, *known], "distill capture", gate)
    return TeacherStore(out)


async def _ask(teacher: Teacher, questions: Sequence[tuple[int, ScoreRequest]], writer: StoreWriter) -> None:
    scores = await asyncio.gather(*(teacher.score(question) for _, question in questions))
    writer.add([(row, question, said) for (row, question), said in zip(questions, scores, strict=True)])


def _vocabulary(ids: dict[str, int]) -> int:
    """Ids below this number, rounded up to what models pad their heads to: a teacher may like an unused id."""
    return -(-(max(ids.values()) + 1) // 256) * 256
