"""Attacks that were found by looking for holes in this sandbox, most of them in it. Also a program for another user:

python own_attacks.py TIER   prints one JSON line per attack

Each prints ESCAPED if it got what it should not, and must end in one of the given ways.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from rlvr.sandbox import Limits, Program, Sandbox, Status, Tier
from rlvr.sandbox.languages import LANGUAGES

LIMITS = Limits(wall_s=6.0, cpu_s=3.0, memory_bytes=96 << 20, disk_bytes=16 << 20, processes=16, output_bytes=100_000)
OK, WRONG, CPU, MEMORY = Status.OK, Status.WRONG_EXIT, Status.CPU, Status.MEMORY


@dataclass(frozen=True)
class Attack:
    name: str
    source: str
    ends: tuple[Status, ...]
    language: str = "python"
    runs: int = 1  # of the same program in one sandbox, where the first could spoil the next
    cpu_s: float = LIMITS.cpu_s


HOLD_UNMAPPED = """
try: shared = {mapping}
except OSError: raise SystemExit(0)
for start in range(0, len(shared), 1 << 20):
    for page in range(start, start + (1 << 20), 4096): shared[page]{touch}
    shared.madvise(mmap.MADV_DONTNEED, start, 1 << 20)
print('ESCAPED')
"""
CALLS = (
    "mount=165 umount2=166 pivot_root=155 chroot=161 unshare=272 setns=308 ptrace=101 kexec_load=246 bpf=321 "
    "perf_event_open=298 userfaultfd=323 io_uring_setup=425 keyctl=250 add_key=248 memfd_create=319 shmget=29 "
    "semget=64 msgget=68 mq_open=240 reboot=169 sethostname=170 init_module=175 process_vm_readv=310 kcmp=312 "
    "open_by_handle_at=304 fsopen=430 open_tree=428 move_mount=429 pidfd_getfd=438 fanotify_init=300 syslog=103 "
    "clock_settime=227 socket=41 clone3=435 statmount=457"
)
INCLUDES = "#include <stdio.h>\n#include <fcntl.h>\n#include <unistd.h>\n#include <sys/stat.h>\n"

ATTACKS = [
    Attack(
        "shared memory that is held and not mapped",
        "import mmap" + HOLD_UNMAPPED.format(mapping="mmap.mmap(-1, 300 << 20)", touch=" = 1"),
        (OK,),
    ),
    Attack(
        "the same from a device",
        "import mmap, os"
        + HOLD_UNMAPPED.format(
            mapping="mmap.mmap(os.open('/dev/zero', os.O_RDONLY), 300 << 20, prot=mmap.PROT_READ)", touch=""
        ),
        (OK,),
    ),
    Attack(
        "memory in page tables",
        """
import mmap
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
wide = mmap.mmap(-1, 400 << 30, flags=flags, prot=mmap.PROT_READ)
wide.madvise(15)
for page in range(0, len(wide), 2 << 20): wide[page]
print('ESCAPED')
""",
        (MEMORY,),
    ),
    Attack(
        "memory of processes that nobody may look into",
        """
import ctypes, os, time
for _ in range(8):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        mine = bytearray(40 << 20); time.sleep(5); os._exit(0)
time.sleep(5); print('ESCAPED')
""",
        (MEMORY,),
    ),
    Attack(
        "processor time of processes that nobody may look into",
        "import ctypes, os\nfor _ in range(2): os.fork()\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\nwhile True: pass",
        (CPU,),
        cpu_s=0.5,
    ),
    Attack(
        "processor time of orphans",
        """
import os, time
for _ in range(10):
    wait, done = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            while time.process_time() < 0.2: pass
        os._exit(0)
    os.close(done); os.wait(); os.read(wait, 1); os.close(wait)
print('ESCAPED')
""",
        (CPU,),
        cpu_s=0.6,
    ),
    Attack(
        "processor time of children that nobody waits for",
        """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(10):
    if os.fork() == 0:
        while time.process_time() < 0.2: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
print('ESCAPED')
""",
        (CPU,),
        cpu_s=0.6,
    ),
    Attack(
        "memory in sockets",
        """
import os, socket, time
for _ in range(4): os.fork()
kept = []
try:
    while True: kept.append(socket.socketpair())
except OSError: time.sleep(5); print('ESCAPED')
""",
        (MEMORY,),
    ),
    Attack(
        "memory of processes whose first thread has ended",
        """
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
def hold():
    mine = bytearray(40 << 20); time.sleep(5); print('ESCAPED'); os._exit(0)
for _ in range(3): os.fork()
threading.Thread(target=hold).start()
libc.syscall(60, 0)
""",
        (MEMORY,),
    ),
    Attack(
        "sockets of processes whose first thread has ended",
        """
import ctypes, os, socket, threading, time
libc, kept = ctypes.CDLL(None), []
def hold():
    try:
        while True: kept.append(socket.socketpair())
    except OSError: time.sleep(5); print('ESCAPED'); os._exit(0)
for _ in range(2): os.fork()
threading.Thread(target=hold).start()
libc.syscall(60, 0)
""",
        (MEMORY,),
    ),
    Attack(
        "descriptors of a thread's own, which are not counted",
        """
import ctypes
libc = ctypes.CDLL(None)
if libc.syscall(436, 1000, 1000, 2) >= 0: print('ESCAPED by close_range')
if libc.syscall(56, 0x100 | 0x800 | 0x10000, 0, 0, 0, 0) >= 0: print('ESCAPED by clone')
""",
        (OK,),
    ),
    Attack(
        "more rights for the next, by rules added to those of this one",
        """
import ctypes, os, struct
libc = ctypes.CDLL(None)
try: print('ESCAPED' if 'root:' in open('/etc/passwd').read() else '')
except OSError: pass
rule = ctypes.create_string_buffer(struct.pack('=Qi', 0xF, os.open('/', os.O_PATH)))
for descriptor in range(3, 64):
    if libc.syscall(445, descriptor, 1, rule, 0) == 0: print('ESCAPED', descriptor)
""",
        (OK,),
        runs=2,
    ),
    Attack(
        "the limits of the process that started it",
        """
import os, resource
for which in range(16):
    try: resource.prlimit(os.getppid(), which, (0, 0)); print('ESCAPED', which)
    except OSError: pass
""",
        (OK,),
        runs=2,
    ),
    Attack(
        "signals that wait, and timers",
        """
import ctypes, os
libc = ctypes.CDLL(None)
libc.sigprocmask(0, ctypes.create_string_buffer(b'\\xff' * 128), None)
sent = sum(libc.sigqueue(os.getpid(), 40, ctypes.c_void_p(0)) == 0 for _ in range(5000))
made = sum(libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p())) == 0 for _ in range(5000))
if sent + made > 3000: print('ESCAPED', sent, made)
""",
        (OK,),
    ),
    Attack(
        "a socket with a name",
        """
import socket
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
    try: socket.socketpair(socket.AF_UNIX, kind)[0].bind('\\0name'); print('ESCAPED', kind)
    except OSError: pass
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    one, _ = socket.socketpair(socket.AF_UNIX, kind)
    for reach in (lambda: one.listen(), lambda: one.connect('\\0other')):
        try: reach(); print('ESCAPED', kind)
        except OSError: pass
""",
        (OK,),
    ),
    Attack(
        "the rights of its own binary, which later runs need",
        INCLUDES
        + 'int main() { int own = open("/proc/self/exe", O_RDONLY); fchmod(own, 0); fchmod(own, 0600); return 3; }',
        (WRONG,),
        language="c",
        runs=2,
    ),
    Attack(
        "its own input, for the next",
        "import os\nos.chmod('/proc/self/fd/0', 0)\nopen('/proc/self/fd/0', 'r+b').write(b'x'); print('ESCAPED')",
        (WRONG,),
        runs=2,
    ),
    Attack(
        "system calls",
        f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for item in {CALLS!r}.split():
    name, number = item.split('=')
    if libc.syscall(int(number), 0, 0, 0, 0, 0, 0) >= 0 or ctypes.get_errno() not in (1, 38): print('ESCAPED', name)
for flag in (0x80, 0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
    if (pid := libc.syscall(56, flag | 17, 0, 0, 0, 0)) == 0: libc._exit(0)
    if pid > 0: print('ESCAPED', flag)
""",
        (OK,),
    ),
    Attack(
        "limits that are raised again",
        """
import resource
for name in dir(resource):
    if name.startswith('RLIMIT_') and resource.getrlimit(getattr(resource, name))[1] >= 0:
        hard = resource.getrlimit(getattr(resource, name))[1]
        try: resource.setrlimit(getattr(resource, name), (hard, hard + 1)); print('ESCAPED', name)
        except (OSError, ValueError): pass
""",
        (OK,),
    ),
    Attack(
        "output of many processes",
        "import os\nfor _ in range(3): os.fork()\nwhile True: os.write(1, b'x' * 4096); os.write(2, b'y' * 4096)",
        (Status.OUTPUT,),
    ),
    Attack(
        "files of others through /proc",
        """
for place in /proc/1/root /proc/1/cwd /proc/1/fd /proc/$PPID/root; do
    ls $place/ > /dev/null 2>&1 && echo ESCAPED $place
done
for file in /proc/1/environ /proc/1/mem /proc/1/maps /proc/kcore /proc/kallsyms /etc/shadow /root/.bashrc; do
    head -c 1 $file > /dev/null 2>&1 && echo ESCAPED $file
done
echo -1000 2> /dev/null > /proc/self/oom_score_adj && echo ESCAPED
su -c id 2>&1 | grep -q uid=0 && echo ESCAPED
true
""",
        (OK,),
        language="bash",
    ),
    Attack(
        "a bomb for the assembler", 'asm(".rept 2000000000\\nnop\\n.endr"); int main() {}', (Status.COMPILE_ERROR,), "c"
    ),
    Attack("a file in the binary", 'asm(".incbin \\"/etc/shadow\\""); int main() {}', (Status.COMPILE_ERROR,), "c"),
    Attack("a device as a header", '#include "/dev/zero"\nint main() {}', (Status.COMPILE_ERROR,), "c"),
    Attack(
        "node's own bindings",
        "const fs = require('fs'); try { process.binding('spawn_sync') } catch {}\n"
        "for (const file of ['/etc/shadow', '/proc/1/environ', '/root/.bashrc'])\n"
        "    try { fs.readFileSync(file); console.log('ESCAPED', file) } catch {}",
        (OK, WRONG, MEMORY),
        "javascript",
    ),
]


@dataclass(frozen=True)
class Verdict:
    name: str
    holds: bool
    seen: str


def judge(sandbox: Sandbox, attack: Attack) -> Verdict:
    limits = Limits(LIMITS.wall_s, attack.cpu_s, *(getattr(LIMITS, name) for name in Limits.__slots__[2:]))
    program = Program(attack.source, attack.language)
    results = sandbox.run_tests(program, [b"input"] * attack.runs, limits=limits)
    holds = all(result.status in attack.ends and b"ESCAPED" not in result.stdout for result in results)
    return Verdict(attack.name, holds, repr(results)[:800])


def judge_all(sandbox: Sandbox) -> list[Verdict]:
    attacks = [attack for attack in ATTACKS if LANGUAGES[attack.language].missing() is None]
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda attack: judge(sandbox, attack), attacks))


if __name__ == "__main__":
    with Sandbox(slots=2, only_tier=Tier(sys.argv[1])) as of_tier:
        for verdict in judge_all(of_tier):
            print(json.dumps(asdict(verdict)))
